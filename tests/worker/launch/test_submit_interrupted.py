"""A worker killed at every call of a submission or cancellation: another one continues, and nothing happens twice."""

from __future__ import annotations

import contextlib

import pytest
from bouchet_core.deployments import Deployment, Ending, Phase
from bouchet_core.store import Store
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import cancel, submit

from tests.fakes.slurm_gateway import FakeSlurm, job_ids
from tests.worker.crashes import CrashError, crashing_context, expire_lease
from tests.worker.scenario import Clock, MakeWorkerContext, requested

# longer than a lost sbatch may take to arrive
ARRIVED_S = 60.0


def finish_submission(context: WorkerContext, clock: Clock, deployment: str) -> Deployment:
    """Run the task as often as the loop would send it."""
    for _ in range(4):
        submit(context, deployment)
        clock.advance(ARRIVED_S)
    return context.store.get(deployment)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_submit_killed_at_any_call_creates_one_job(
    make_context: MakeWorkerContext, store: Store, gateway: object, slurm: FakeSlurm, clock: Clock, after: bool
) -> None:
    for calls in range(1, 100):
        identity = f"d{calls}"
        slurm.files.clear()
        before = len(slurm.jobs)
        store.create(requested(identity, clock(), partition="gpu_h200"))
        crashing, left = crashing_context(make_context, store, gateway, calls, after)
        with contextlib.suppress(CrashError):
            submit(crashing, identity)
        expire_lease(store, identity)
        record = finish_submission(make_context("next-worker"), clock, identity)
        assert record.phase is Phase.QUEUED, f"killed at call {calls}"
        assert record.job is not None and record.job.slurm_id == job_ids(slurm, record.job.name)[0]
        assert len(slurm.jobs) == before + 1, f"killed at call {calls}"
        cancel(make_context("next-worker"), identity)
        slurm.finish(record.job.slurm_id or 0, "CANCELLED")
        store.update(identity, lambda d: d.moved(Phase.ENDED, clock(), ending=Ending.CANCELLED))
        if left[0] > 0:
            assert calls > 15, "a submission makes many calls, or this test covers nothing"
            return
    raise AssertionError("the submission was killed every time")


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["before", "after"])
def test_cancel_killed_at_any_call_cancels_the_job(
    make_context: MakeWorkerContext, store: Store, gateway: object, slurm: FakeSlurm, clock: Clock, after: bool
) -> None:
    for calls in range(1, 30):
        identity = f"d{calls}"
        store.create(requested(identity, clock(), partition="gpu_h200"))
        submit(make_context(), identity)
        job = store.get(identity).job
        assert job is not None and job.slurm_id is not None
        crashing, left = crashing_context(make_context, store, gateway, calls, after)
        with contextlib.suppress(CrashError):
            cancel(crashing, identity)
        expire_lease(store, identity)
        cancel(make_context("next-worker"), identity)
        assert slurm.jobs[job.slurm_id].state.startswith("CANCELLED"), f"killed at call {calls}"
        store.update(identity, lambda d: d.moved(Phase.ENDED, clock(), ending=Ending.CANCELLED))
        if left[0] > 0:
            return
    raise AssertionError("the cancellation was killed every time")
