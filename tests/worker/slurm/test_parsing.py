"""Slurm's words: states total, times and node lists both ways, outputs of several releases."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Ending, Placement
from bouchet_core.errors import SlurmOutputError
from bouchet_core.values import format_duration, parse_duration
from bouchet_worker.reconcile.endings import SENTENCES
from bouchet_worker.slurm.commands import sbatch_argv, sbatch_test_only_argv, scancel_argv
from bouchet_worker.slurm.error_messages import may_have_submitted
from bouchet_worker.slurm.parsing import (
    QueueRow,
    expand_nodes,
    expected_start,
    parse_accounting,
    parse_job,
    parse_job_id,
    parse_queue,
    parse_start_estimate,
)
from bouchet_worker.slurm.states import STATES, State, StateClass, parse_state
from hypothesis import given
from hypothesis import strategies as st

# JOB STATE CODES of squeue's manual, 24.11
MANUAL_24_11 = [
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "CONFIGURING", "COMPLETING", "DEADLINE",
    "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PENDING", "PREEMPTED", "RUNNING",
    "RESV_DEL_HOLD", "REQUEUE_FED", "REQUEUE_HOLD", "REQUEUED", "RESIZING", "REVOKED",
    "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED", "TIMEOUT",
]  # fmt: skip

PLACE = Placement(partition="gpu_h200", gpus=2, gpu_type="h200", nodes=1, cpus=12, memory_gib=480, walltime_s=90_061)


def test_every_state_of_the_manual_is_known_and_every_known_state_has_a_row() -> None:
    assert len(MANUAL_24_11) == 24
    assert {State(word) for word in MANUAL_24_11} <= set(STATES)
    assert set(STATES) == set(State)


def test_exactly_the_ended_states_have_an_ending_and_a_sentence() -> None:
    for state, life in STATES.items():
        assert (life.state_class is StateClass.ENDED) == (life.ending is not None), state
        assert (life.state_class is StateClass.ENDED) == (state in SENTENCES), state


@pytest.mark.parametrize(
    ("word", "state"),
    [("RUNNING", State.RUNNING), ("CANCELLED by 2001", State.CANCELLED), ("CANCELLED+", State.CANCELLED)],
)
def test_a_state_as_the_programs_print_it(word: str, state: State) -> None:
    assert parse_state(word) is state


@pytest.mark.parametrize("word", ["", "R", "running", "NEWLY_INVENTED", "RUNNING!"])
def test_an_unknown_state_raises(word: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_state(word)


# times


@given(st.integers(0, 400 * 86_400))
def test_durations_come_back_as_they_went(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("06:00:00", 21_600),
        ("2-00:00:00", 172_800),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("0-00:00:01", 1),
    ],
)
def test_every_form_that_sbatch_takes(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@given(st.text(max_size=12))
def test_what_is_no_duration_raises_and_nothing_else_happens(text: str) -> None:
    with contextlib.suppress(SlurmOutputError):
        assert parse_duration(text) >= 0


@pytest.mark.parametrize("text", ["", "UNLIMITED", "1:2:3:4", "-5", "1-", "a:b", "٣:٤"])
def test_no_durations(text: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_duration(text)


# node lists


@given(st.lists(st.tuples(st.sampled_from(["node", "r01g", "a-b"]), st.integers(0, 999)), min_size=1, max_size=8))
def test_plain_node_lists_expand_to_themselves(nodes: list[tuple[str, int]]) -> None:
    names = [f"{stem}{number}" for stem, number in nodes]
    assert expand_nodes(",".join(names)) == names


@given(st.integers(0, 500), st.integers(0, 40), st.integers(1, 5))
def test_ranges_keep_their_width(first: int, more: int, width: int) -> None:
    low = str(first).zfill(width)
    expanded = expand_nodes(f"n[{low}-{first + more}]")
    assert [int(name[1:]) for name in expanded] == list(range(first, first + more + 1))
    assert all(len(name) >= len(low) + 1 for name in expanded)


def test_brackets_anywhere() -> None:
    assert expand_nodes("a[1-2]b[3,05],c9") == ["a1b3", "a1b05", "a2b3", "a2b05", "c9"]


@pytest.mark.parametrize("text", ["n[1-2", "n1-2]", "n[a-b]", "n[]", "n1,,n2", "[[1]]"])
def test_broken_node_lists_raise(text: str) -> None:
    with pytest.raises(SlurmOutputError):
        expand_nodes(text)


# outputs


QUEUE_24_11 = """\
3|PENDING|QOSMaxJobsPerUserLimit|N/A|2026-11-22T09:46:31|n/a||gpu_devel|a|b c
2|RUNNING|None|2026-11-22T09:46:31|2026-11-22T09:46:31|node1|node1|gpu_devel|bouchet-x-1
7|PENDING|ReqNodeNotAvail, Reserved for maintenance|2026-11-25T08:00:00|2026-11-22T09:40:00|n/a||gpu_h200|bouchet-y-1
"""
# 22.05 leaves the host of pending jobs empty
QUEUE_22_05 = "11|PENDING|Resources|2026-11-22T12:00:00|2026-11-22T09:46:31|||gpu|bouchet-z-1\n"


def test_the_queue_of_24_11() -> None:
    rows = parse_queue(QUEUE_24_11)
    assert [(r.job_id, r.state, r.node, r.name) for r in rows] == [
        (3, "PENDING", None, "a|b c"),
        (2, "RUNNING", "node1", "bouchet-x-1"),
        (7, "PENDING", None, "bouchet-y-1"),
    ]
    assert rows[2].reason == "ReqNodeNotAvail, Reserved for maintenance"


def test_the_queue_of_22_05() -> None:
    assert parse_queue(QUEUE_22_05)[0].node is None
    assert parse_queue("") == []


@pytest.mark.parametrize("text", ["hello", "x|PENDING|a|b|c|d|e|f|g", "1|2|3"])
def test_what_is_no_queue_raises(text: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_queue(text)


def test_accounting_rows_and_requeued_ones() -> None:
    rows = parse_accounting("5|NODE_FAIL|1:0|node1|2001|bouchet-a-1\n5|CANCELLED by 2001|0:15|node2|2001|bouchet-a|1\n")
    assert [(r.state, r.uid, r.name) for r in rows] == [
        ("NODE_FAIL", "2001", "bouchet-a-1"),
        ("CANCELLED by 2001", "2001", "bouchet-a|1"),
    ]
    assert parse_accounting("") == []
    with pytest.raises(SlurmOutputError):
        parse_accounting("sacct: what")


SHOW_24_11 = (
    "JobId=1 JobName=bouchet-a-1 UserId=researcher(2001) JobState=TIMEOUT Reason=TimeLimit Dependency=(null) "
    "ExitCode=0:15 RunTime=00:01:36 Partition=day NodeList=node[1-2] BatchHost=node1 Command=/home/r/x=y.sbatch\n"
)


def test_scontrols_line() -> None:
    row = parse_job(SHOW_24_11)
    assert (row.job_id, row.state, row.exit_code, row.nodes, row.reason, row.name) == (
        1,
        "TIMEOUT",
        "0:15",
        "node[1-2]",
        "TimeLimit",
        "bouchet-a-1",
    )
    with pytest.raises(SlurmOutputError):
        parse_job("No jobs in the system")


@pytest.mark.parametrize(("text", "number"), [("17\n", 17), ("17;cluster\n", 17), ("a warning\n18\n", 18)])
def test_parsable_ids(text: str, number: int) -> None:
    assert parse_job_id(text) == number


@pytest.mark.parametrize("text", ["", "Submitted batch job 17", "x;y"])
def test_what_is_no_id_raises(text: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_job_id(text)


def test_test_only() -> None:
    said = "sbatch: Job 4 to start at 2026-11-22T09:46:37 using 1 processors on nodes node1 in partition gpu_h200\n"
    found = parse_start_estimate(said)
    assert found is not None and (found.start, found.nodes) == ("2026-11-22T09:46:37", "node1")
    assert parse_start_estimate("allocation failure: Requested node configuration is not available") is None


# start estimates

SUBMITTED = datetime(2026, 11, 22, 14, 46, 33, tzinfo=UTC)


def row(start: str, submitted: str = "2026-11-22T09:46:31") -> QueueRow:
    return QueueRow(1, "PENDING", "Priority", start, submitted, None, "", "p", "n")


def test_the_zone_comes_from_the_submit_time() -> None:
    assert expected_start(row("2026-11-22T12:00:00"), SUBMITTED) == datetime(2026, 11, 22, 17, tzinfo=UTC)


@given(st.integers(-48, 56), st.integers(-120, 120), st.integers(0, 10**6))
def test_any_zone_and_a_clock_that_is_off_by_minutes(quarters: int, skew_s: int, ahead_s: int) -> None:
    zone = timedelta(minutes=15 * quarters)
    start = SUBMITTED + timedelta(seconds=ahead_s)
    printed = row(
        f"{start + zone:%Y-%m-%dT%H:%M:%S}", f"{SUBMITTED + zone + timedelta(seconds=skew_s):%Y-%m-%dT%H:%M:%S}"
    )
    assert expected_start(printed, SUBMITTED) == start.replace(microsecond=0)


@pytest.mark.parametrize("start", ["N/A", "Unknown", "", "(null)", "Tomorr 12:00", "12:30"])
def test_no_estimate_rather_than_a_wrong_one(start: str) -> None:
    assert expected_start(row(start), SUBMITTED) is None


def test_epoch_seconds_need_no_zone() -> None:
    assert expected_start(row("1795341792"), None) == datetime.fromtimestamp(1795341792, UTC)


# command lines


def test_sbatch_says_all_and_nothing_through_a_shell() -> None:
    place = PLACE.model_copy(update={"account": "prio_x", "qos": "fast", "constraint": "h200&ib"})
    assert sbatch_argv(place, "bouchet-a-1", "~/b/logs/%j.log", "~/b/remote/x/s.sbatch", ["~/b/jobs/bouchet-a-1"]) == [
        "sbatch",
        "--parsable",
        "--partition=gpu_h200",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=12",
        "--mem=480G",
        "--time=1-01:01:01",
        "--gpus=h200:2",
        "--account=prio_x",
        "--qos=fast",
        "--constraint=h200&ib",
        "--job-name=bouchet-a-1",
        "--output=~/b/logs/%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@120",
        "~/b/remote/x/s.sbatch",
        "~/b/jobs/bouchet-a-1",
    ]


def test_several_nodes_share_the_gpus_evenly_and_none_asks_for_none() -> None:
    many = sbatch_test_only_argv(PLACE.model_copy(update={"gpus": 16, "nodes": 2}))
    assert "--gpus-per-node=h200:8" in many and not any(word.startswith("--gpus=") for word in many)
    none = sbatch_test_only_argv(PLACE.model_copy(update={"gpus": 0}))
    assert not any("gpus" in word for word in none)


def test_cancel_is_by_id() -> None:
    assert scancel_argv(7) == ["scancel", "7"]


@pytest.mark.parametrize(
    ("stderr", "unsure"),
    [
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", True),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", False),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", False),
    ],
)
def test_which_failures_may_have_submitted(stderr: str, unsure: bool) -> None:
    assert may_have_submitted(stderr) is unsure


def test_a_cancelled_state_is_cancelled() -> None:
    assert STATES[State.CANCELLED].ending is Ending.CANCELLED
