"""A worker that crashes at any call while it recovers or adopts jobs: another one continues, nothing happens twice."""

from __future__ import annotations

import contextlib

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.store import Store
from bouchet_worker.launch.submit import submit
from bouchet_worker.reconcile.orphans import adopt_orphan, list_orphans

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.crashes import CRASHING, CrashError, crashing_context
from tests.worker.scenario import Clock, MakeWorkerContext, requested

from .unrecorded import flush, launch_elsewhere

MAX_CALLS = 60
# fewer calls would mean that the crashes did not hit what they should
MIN_CALLS = 8


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["before", "after"])
def test_crash_at_any_call_recovers_jobs_once(
    make_context: MakeWorkerContext,
    store: Store,
    gateway: object,
    slurm: FakeSlurm,
    clock: Clock,
    redis_server: RedisServer,
    after: bool,
) -> None:
    for identity in ("aa", "bb"):
        store.create(requested(identity, clock(), partition="gpu_h200"))
        submit(make_context(), identity)
    for calls in range(1, MAX_CALLS):
        flush(redis_server)
        crashing, calls_left = crashing_context(make_context, store, gateway, calls, after)
        with contextlib.suppress(CrashError):
            list_orphans(crashing)
        assert list_orphans(make_context("next")) == ()
        assert {d.id: d.job.slurm_id for d in store.live() if d.job} == {"aa": 101, "bb": 102}
        assert {d.job.slot for d in store.live() if d.job} == {0, 1}, f"crash at call {calls}"
        if calls_left[0] > 0:
            assert calls > MIN_CALLS
            assert slurm.programs().count("sbatch") == 2
            return
    raise AssertionError("every try crashed")


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_crash_at_any_call_adopts_job_once(
    make_context: MakeWorkerContext,
    store: Store,
    gateway: object,
    slurm: FakeSlurm,
    clock: Clock,
    redis_server: RedisServer,
    after: bool,
) -> None:
    for calls in range(1, MAX_CALLS):
        identity = f"d{calls}"
        job_id = launch_elsewhere(make_context, store, clock, identity)
        flush(redis_server)
        crashing, calls_left = crashing_context(make_context, store, gateway, calls, after)
        with contextlib.suppress(CrashError):
            adopt_orphan(crashing, job_id)
        store.release(f"orphan:{job_id}", CRASHING)
        following = make_context("next")
        if list_orphans(following):
            adopt_orphan(following, job_id)
        live = [(d.id, d.phase, d.job.slurm_id) for d in store.live() if d.job]
        assert live == [(identity, Phase.QUEUED, job_id)], f"crash at call {calls}"
        assert list_orphans(following) == ()
        slurm.finish(job_id, "COMPLETED")
        if calls_left[0] > 0:
            assert calls > MIN_CALLS
            return
    raise AssertionError("every try crashed")
