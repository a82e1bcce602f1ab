"""What is read from Slurm and from the job's files: cancellations, requeues, start estimates, times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Ending, Phase
from bouchet_worker.launch.submit import cancel

from tests.fakes.slurm_gateway import FakeJob
from tests.worker.scenario import ROOT, WorkerScenario, write_connection


@pytest.mark.parametrize(
    ("state", "user"),
    [
        ("CANCELLED by 2001", "by you, with scancel"),
        ("CANCELLED by 0", "by root"),
        ("CANCELLED by 2003", "by user colleague (id 2003)"),
        ("CANCELLED by 2999", "by user id 2999"),
    ],
)
def test_cancelled_job_is_reported_with_the_user_who_cancelled_it(
    scenario: WorkerScenario, state: str, user: str
) -> None:
    job_id = scenario.launch()
    scenario.slurm.finish(job_id, state, "0:15")
    scenario.step()
    record = scenario.get()
    assert record.ending is Ending.CANCELLED and user in record.reason
    assert record.job is not None and record.job.slurm_state == state


def test_cancelled_job_without_accounting_is_cancelled_by_unknown_user(scenario: WorkerScenario) -> None:
    job_id = scenario.launch()
    scenario.slurm.finish(job_id, "CANCELLED by 2003")
    scenario.slurm.accounting = False
    scenario.step(2)
    record = scenario.get()
    assert record.ending is Ending.CANCELLED and "unknown user" in record.reason


@pytest.mark.parametrize("old_file", [False, True], ids=["file removed", "file of the first run"])
def test_requeued_job_waits_again_and_its_new_run_is_found(scenario: WorkerScenario, old_file: bool) -> None:
    job_id = scenario.ready()
    scenario.slurm.requeue(job_id)
    if not old_file:
        del scenario.slurm.files[f"{ROOT}/logs/connection-{job_id}.json"]
    scenario.step()
    record = scenario.get()
    assert record.phase is Phase.QUEUED and record.job is not None
    assert "requeued" in record.reason and "BeginTime" in record.reason
    assert record.job.node is None and record.job.port is None and record.job.times == {}
    assert scenario.context.store.slot_target(0) is None
    scenario.slurm.start(job_id, "node2")
    write_connection(scenario.slurm, job_id, node="node2", port=20002)
    scenario.step(3)
    record = scenario.get()
    assert record.phase is Phase.READY and record.job is not None and record.job.node == "node2"
    target = scenario.context.store.slot_target(0)
    assert target is not None and (target.node, target.port) == ("node2", 20002)


def test_queue_that_is_too_long_is_listed_by_name(scenario: WorkerScenario) -> None:
    for n in range(500):
        scenario.slurm.jobs[5000 + n] = FakeJob(5000 + n, f"train-{n}", "day", [], state="RUNNING", node="node3")
    scenario.slurm.output_limit = 4096
    job_id = scenario.ready()
    assert scenario.slurm.programs().count("squeue") <= 3, "the long list is not asked for again and again"
    cancel(scenario.context, "aa")
    scenario.slurm.finish(job_id, "COMPLETED")
    scenario.step()
    assert scenario.get().ending is Ending.CANCELLED


def test_connection_file_of_another_job_is_ignored(scenario: WorkerScenario) -> None:
    job_id = scenario.launch()
    scenario.slurm.start(job_id)
    write_connection(scenario.slurm, job_id, name="bouchet-other-1")
    scenario.step(3)
    assert scenario.get().phase is Phase.STARTING and scenario.context.store.slot_target(0) is None


def test_times_of_a_start_are_recorded(scenario: WorkerScenario) -> None:
    job_id = scenario.launch()
    job = scenario.slurm.jobs[job_id]
    scenario.slurm.start(job_id)
    assert job.start is not None
    job.submitted = job.start - timedelta(seconds=42)
    scenario.slurm.epochs = True
    write_connection(scenario.slurm, job_id, started_at=int(job.start.timestamp()) + 5)
    log = "bouchet: starting the container\nModel loading took 61.2 GiB memory and 7.5 seconds\n"
    scenario.slurm.files[f"{ROOT}/logs/{job_id}.log"] = log.encode()
    scenario.step(2)
    scenario.clock.advance(20)
    scenario.step()
    record = scenario.get()
    assert record.phase is Phase.READY and record.job is not None
    times = record.job.times
    assert (times["queue"], times["image"], times["load"]) == (42.0, 5.0, 7.5)
    assert list(times)[-1] == "ready" and times["ready"] == pytest.approx(sum(list(times.values())[:-1]), abs=0.1)


def test_start_estimate_as_date_uses_the_clusters_time_zone(scenario: WorkerScenario) -> None:
    job_id = scenario.launch()
    job = scenario.slurm.jobs[job_id]
    job.start = job.submitted.replace(microsecond=0)
    scenario.step()
    recorded = scenario.get().job
    assert recorded is not None and recorded.start_estimate == job.start


def test_start_estimate_in_seconds_needs_no_time_zone(scenario: WorkerScenario) -> None:
    job_id = scenario.launch()
    scenario.slurm.epochs = True
    scenario.slurm.jobs[job_id].start = datetime(2026, 11, 23, 8, 30, tzinfo=UTC)
    scenario.step()
    job = scenario.get().job
    assert job is not None and job.start_estimate == datetime(2026, 11, 23, 8, 30, tzinfo=UTC)


def test_job_that_the_site_moves_is_shown_where_it_is(scenario: WorkerScenario) -> None:
    scenario.slurm.plugin_partition = "gpu_h200"
    job_id = scenario.launch()
    scenario.step()
    record = scenario.get()
    assert record.job is not None and record.job.placement is not None
    asked = next(word for word in scenario.slurm.jobs[job_id].argv if word.startswith("--partition="))
    assert asked != "--partition=gpu_h200" and record.job.placement.partition == "gpu_h200"
    moved = f"moved from {asked.partition('=')[2]} to gpu_h200 after it was submitted"
    assert record.job.placement.why.startswith(moved)
    # while Slurm may still choose, and where squeue prints none, it stays
    for partition in ("gpu_h200,gpu_devel", ""):
        scenario.slurm.jobs[job_id].partition = partition
        scenario.step()
        job = scenario.get().job
        assert job is not None and job.placement == record.job.placement
