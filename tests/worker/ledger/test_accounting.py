"""What sacct says of jobs: one query for all, every run of a requeued job counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Job, Phase
from bouchet_core.errors import SlurmOutputError
from bouchet_core.ledger import MOST_PAUSES, AccountingEntry, Pause
from bouchet_worker.ledger.accounting import (
    GRACE,
    AccountingScheduler,
    accounting_argv,
    compare_accounting,
    entries_of,
    next_night,
    parse_accounting_rows,
)

from tests.conftest import RedisServer
from tests.worker.ledger.appended import read_entries
from tests.worker.scenario import WorkerScenario

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
# printed by Slurm 24.11 for: cancelled, requeued once and timed out, node lost, still running, another program's job
PRINTED = """\
11|CANCELLED by 2001|1796000000|1796000600|600|billing=6,cpu=6,gres/gpu:h200=2,gres/gpu=2,mem=240G,node=1|bouchet-a-1
12|REQUEUED|1796000000|1796000100|100|billing=6,cpu=6,gres/gpu=1,mem=240G,node=1|bouchet-b-1
12|TIMEOUT|1796000300|1796003900|3600|billing=6,cpu=6,gres/gpu=1,mem=240G,node=1|bouchet-b-1
13|NODE_FAIL|1796000000|1796000050|50|billing=6,cpu=6,gres/gpu:h200=4,mem=240G,node=1|bouchet-c-1
14|RUNNING|1796000000|Unknown|9|billing=6,cpu=6,gres/gpu=1,mem=240G,node=1|bouchet-d-1
15|COMPLETED|1796000000|1796000050|50||a|name|with bars
"""


def ended(name: str, slurm_id: int, at: datetime = NOW) -> Job:
    """Return a job that has ended."""
    return Job(name=name, slot=0, slurm_id=slurm_id, phase=Phase.ENDED, since={Phase.ENDED: at})


def appended(server: RedisServer) -> list[AccountingEntry]:
    """Return all entries of sacct."""
    return [one for one in read_entries(server) if isinstance(one, AccountingEntry)]


def test_argv_asks_once_for_all_jobs_and_all_runs() -> None:
    argv = accounting_argv({12, 11})
    assert argv[0] == "sacct" and argv[-1] == "--jobs=11,12" and "--duplicates" in argv


def test_runs_of_a_job_are_added_and_running_jobs_left_out() -> None:
    jobs = [ended(f"bouchet-{letter}-1", number) for letter, number in zip("abcd", range(11, 15), strict=True)]
    jobs.append(ended("bouchet-x-1", 15))
    found = {entry.job: entry for entry in entries_of(jobs, parse_accounting_rows(PRINTED), NOW)}
    assert {name: (entry.gpu_s, entry.runs) for name, entry in found.items()} == {
        "bouchet-a-1": (1200.0, 1),
        "bouchet-b-1": (3700.0, 2),
        "bouchet-c-1": (200.0, 1),
    }
    assert found["bouchet-b-1"].state == "TIMEOUT"
    between = Pause(start=datetime.fromtimestamp(1796000100, UTC), end=datetime.fromtimestamp(1796000300, UTC))
    assert {name: entry.pauses for name, entry in found.items() if entry.pauses} == {"bouchet-b-1": (between,)}


@pytest.mark.parametrize(
    "times",
    [
        ("Unknown", "1796000100", "1796000300", "1796003900"),
        ("2026-11-29T10:00:00", "2026-11-29T10:01:00", "2026-11-29T10:02:00", "2026-11-29T10:03:00"),
        ("1796000000", "9" * 5000, "1796000300", "1796003900"),
        ("0", "1", "2", "3"),
        ("1796000000", "1796000300", "1796000300", "1796003900"),
    ],
)
def test_times_that_cannot_be_read_or_leave_no_pause_make_none(times: tuple[str, ...]) -> None:
    ends = (("REQUEUED", *times[:2]), ("TIMEOUT", *times[2:]))
    lines = (f"12|{state}|{begin}|{end}|60|gres/gpu=1|bouchet-b-1" for state, begin, end in ends)
    [entry] = entries_of([ended("bouchet-b-1", 12)], parse_accounting_rows("\n".join(lines)), NOW)
    assert (entry.runs, entry.gpu_s, entry.pauses) == (2, 120.0, ())


def test_of_very_many_runs_the_last_pauses_are_kept() -> None:
    first = 1796000000
    lines = (f"12|CANCELLED|{first + 60 * i}|{first + 60 * i + 50}|50|gres/gpu=1|bouchet-b-1" for i in range(900))
    [entry] = entries_of([ended("bouchet-b-1", 12)], parse_accounting_rows("\n".join(lines)), NOW)
    assert entry.runs == 900 and len(entry.pauses) == MOST_PAUSES
    assert entry.pauses[-1].end == datetime.fromtimestamp(first + 60 * 899, UTC)


@pytest.mark.parametrize("text", ["sacct: error: something", "1|2|3"])
def test_output_without_a_row_raises(text: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_accounting_rows(text)


def test_empty_output_has_no_rows() -> None:
    assert parse_accounting_rows("\n") == []


def test_comparison_appends_an_entry_for_each_ended_job(scenario: WorkerScenario, redis_server: RedisServer) -> None:
    job_id = scenario.ready()
    scenario.slurm.finish(job_id, "COMPLETED")
    scenario.step(4)
    job = scenario.get().jobs[0]
    assert job.phase is Phase.ENDED
    assert compare_accounting(scenario.context) == 1
    [entry] = appended(redis_server)
    assert (entry.job, entry.slurm_id) == (job.name, job_id)


def test_scheduler_asks_after_an_end_and_each_night(scenario: WorkerScenario) -> None:
    scenario.clock.moment = datetime(2026, 11, 29, 20, 0, tzinfo=UTC)
    scheduler = AccountingScheduler(scenario.context, start=lambda work: work())
    calls = scenario.slurm.calls

    def asked(*live: str) -> int:
        before = len(calls)
        scheduler.run_if_due(live)
        return len([argv for argv in calls[before:] if argv[0] == "sacct"])

    job_id = scenario.ready()
    scenario.slurm.finish(job_id, "COMPLETED")
    scenario.step(4)
    assert asked("a") == 0
    assert asked() == 0
    scenario.clock.advance(GRACE.total_seconds() + 1)
    assert (asked(), asked()) == (1, 0)
    scenario.clock.moment = next_night(scenario.clock()) + timedelta(seconds=1)
    assert (asked(), asked()) == (1, 0)


def test_site_without_accounting_is_asked_again_at_night_only(scenario: WorkerScenario) -> None:
    job_id = scenario.ready()
    scenario.slurm.finish(job_id, "COMPLETED")
    scenario.step(4)
    scenario.slurm.accounting = False
    scheduler = AccountingScheduler(scenario.context, start=lambda work: work())
    scheduler.run_if_due(["a"])
    scheduler.run_if_due([])
    scenario.clock.advance(GRACE.total_seconds() + 1)
    for _ in range(3):
        scheduler.run_if_due([])
        scenario.clock.advance(60)
    assert len([argv for argv in scenario.slurm.calls if argv[0] == "sacct" and "--duplicates" in argv]) == 1
