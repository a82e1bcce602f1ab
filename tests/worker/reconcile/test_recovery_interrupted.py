"""A worker killed anywhere while it makes records again or takes a job over: another goes on, nothing doubles."""

from __future__ import annotations

import contextlib

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.store import Store
from bouchet_worker.launch.submit import submit
from bouchet_worker.reconcile.orphans import adopt_orphan, list_orphans

from tests.conftest import RedisServer
from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.crashes import CrashError, crashing_context
from tests.worker.scenario import Clock, MakeWorkerContext, requested

from .test_recovery import OTHER_SECRET, empty


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_call_jobs_are_found_again_once(
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
    for calls in range(1, 60):
        empty(redis_server)
        dying, fuse = crashing_context(make_context, store, gateway, calls, after)
        with contextlib.suppress(CrashError):
            list_orphans(dying)
        assert list_orphans(make_context("heir")) == ()
        assert {d.id: d.job.slurm_id for d in store.live() if d.job} == {"aa": 101, "bb": 102}
        assert {d.job.slot for d in store.live() if d.job} == {0, 1}, f"killed at call {calls}"
        if fuse[0] > 0:
            assert calls > 8, "it makes many calls, or the test tests nothing"
            assert slurm.programs().count("sbatch") == 2
            return
    raise AssertionError("it never got through")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_call_a_job_is_taken_over_once(
    make_context: MakeWorkerContext,
    store: Store,
    gateway: object,
    slurm: FakeSlurm,
    clock: Clock,
    redis_server: RedisServer,
    after: bool,
) -> None:
    for calls in range(1, 60):
        identity = f"d{calls}"
        store.create(requested(identity, clock(), partition="gpu_h200"))
        submit(make_context("elsewhere", serving_secret=OTHER_SECRET), identity)
        job = store.get(identity).job
        assert job is not None and job.slurm_id is not None
        empty(redis_server)
        dying, fuse = crashing_context(make_context, store, gateway, calls, after)
        with contextlib.suppress(CrashError):
            adopt_orphan(dying, job.slurm_id)
        store.release(f"orphan:{job.slurm_id}", "crashing-worker")
        heir = make_context("heir")
        if list_orphans(heir):
            adopt_orphan(heir, job.slurm_id)
        assert [(d.id, d.phase, d.job.slurm_id) for d in store.live() if d.job] == [
            (identity, Phase.QUEUED, job.slurm_id)
        ], f"killed at call {calls}"
        assert list_orphans(heir) == ()
        slurm.finish(job.slurm_id, "COMPLETED")
        if fuse[0] > 0:
            assert calls > 8
            return
    raise AssertionError("it never got through")
