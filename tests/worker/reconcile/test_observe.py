"""The life of a job as the loop sees it: who cancelled it, put back into the queue, where the time went."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Ending, Phase
from bouchet_core.gateway_client import GatewayClient
from bouchet_worker.context import WorkerContext

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import ROOT, Clock, Slot0, WorkerScenario, write_connection


@pytest.fixture
def stage(
    context: WorkerContext, gateway: GatewayClient, slot0: Slot0, slurm: FakeSlurm, clock: Clock
) -> Iterator[WorkerScenario]:
    stage = WorkerScenario(context, gateway, slot0, slurm, clock)
    yield stage
    stage.probe.close()


@pytest.mark.parametrize(
    ("word", "who"),
    [
        ("CANCELLED by 2001", "by you, with scancel"),
        ("CANCELLED by 0", "by root"),
        ("CANCELLED by 2003", "by user colleague (id 2003)"),
        ("CANCELLED by 2999", "by user id 2999"),
    ],
)
def test_who_cancelled_it_is_said_by_name(stage: WorkerScenario, word: str, who: str) -> None:
    job_id = stage.launch()
    stage.slurm.finish(job_id, word, "0:15")
    stage.step()
    record = stage.get()
    assert record.ending is Ending.CANCELLED and who in record.reason
    assert record.job is not None and record.job.slurm_state == word


def test_without_accounting_a_cancelled_job_is_cancelled_all_the_same(stage: WorkerScenario) -> None:
    job_id = stage.launch()
    stage.slurm.finish(job_id, "CANCELLED by 2003")
    stage.slurm.accounting = False
    stage.step(2)
    record = stage.get()
    assert record.ending is Ending.CANCELLED and "somebody" in record.reason


def test_a_job_put_back_into_the_queue_waits_again_and_finds_its_new_run(stage: WorkerScenario) -> None:
    job_id = stage.launch()
    stage.slurm.start(job_id)
    write_connection(stage.slurm, job_id)
    stage.step(3)
    assert stage.get().phase is Phase.READY
    stage.slurm.requeue(job_id)
    del stage.slurm.files[f"{ROOT}/logs/connection-{job_id}.json"]
    stage.step()
    record = stage.get()
    assert record.phase is Phase.QUEUED and record.job is not None
    assert "back into the queue" in record.reason and "BeginTime" in record.reason
    assert record.job.node is None and record.job.port is None and record.job.times == {}
    assert stage.context.store.slot_target(0) is None
    stage.slurm.start(job_id, "node2")
    write_connection(stage.slurm, job_id, node="node2", port=20002)
    stage.step(3)
    record = stage.get()
    assert record.phase is Phase.READY and record.job is not None and record.job.node == "node2"
    target = stage.context.store.slot_target(0)
    assert target is not None and (target.node, target.port) == ("node2", 20002)


def test_the_times_of_a_start_are_on_the_record(stage: WorkerScenario) -> None:
    job_id = stage.launch()
    job = stage.slurm.jobs[job_id]
    stage.slurm.start(job_id)
    assert job.start is not None
    job.submitted = job.start - timedelta(seconds=42)
    stage.slurm.epochs = True
    started = int(job.start.timestamp())
    write_connection(stage.slurm, job_id, started_at=started + 5)
    log = "bouchet: starting the container\nModel loading took 61.2 GiB memory and 7.5 seconds\n"
    stage.slurm.files[f"{ROOT}/logs/{job_id}.log"] = log.encode()
    stage.step(2)
    stage.clock.advance(20)
    stage.step()
    record = stage.get()
    assert record.phase is Phase.READY and record.job is not None
    times = record.job.times
    assert (times["queue"], times["image"], times["load"]) == (42.0, 5.0, 7.5)
    assert list(times)[-1] == "ready" and times["ready"] == pytest.approx(sum(list(times.values())[:-1]), abs=0.1)


def test_a_start_estimate_in_seconds_needs_no_zone(stage: WorkerScenario) -> None:
    job_id = stage.launch()
    stage.slurm.epochs = True
    stage.slurm.jobs[job_id].start = datetime(2026, 11, 23, 8, 30, tzinfo=UTC)
    stage.step()
    job = stage.get().job
    assert job is not None and job.start_estimate == datetime(2026, 11, 23, 8, 30, tzinfo=UTC)
