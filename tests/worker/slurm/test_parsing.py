"""Parsers of Slurm's output, among them recorded output of several releases (tests/worker/slurm_output)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bouchet_core.errors import SlurmOutputError
from bouchet_core.placement import UserUsage
from bouchet_worker.slurm.parsing import (
    QueueRow,
    expand_nodes,
    expected_start,
    parse_accounting,
    parse_job,
    parse_job_id,
    parse_maintenance,
    parse_queue,
    parse_start_estimate,
    parse_usage,
    queue_wait_s,
    run_seconds,
    start_sort_key,
)
from bouchet_worker.slurm.states import parse_state
from hypothesis import given
from hypothesis import strategies as st

RECORDED = Path(__file__).parents[1] / "slurm_output"
RELEASES = sorted(path.name for path in RECORDED.iterdir() if path.is_dir())
LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
SUBMITTED = datetime(2026, 11, 22, 14, 46, 33, tzinfo=UTC)


def recorded(release: str, name: str) -> str:
    return (RECORDED / release / f"{name}.txt").read_text()


def row(start: str, submitted: str = "2026-11-22T09:46:31") -> QueueRow:
    return QueueRow(1, "PENDING", "Priority", start, submitted, None, "", "p", "n")


def test_recorded_releases_are_those_in_use() -> None:
    assert RELEASES == ["22.05", "23.11", "24.11", "25.05"]


# squeue


@pytest.mark.parametrize("release", RELEASES)
def test_parse_queue_reads_every_release(release: str) -> None:
    rows = parse_queue(recorded(release, "squeue"))
    assert rows and all(parse_state(row.state) for row in rows)
    running = next(row for row in rows if row.state == "RUNNING")
    assert running.node is not None and running.node in expand_nodes(running.nodes)
    waited = queue_wait_s(running)
    assert waited is not None and 0 <= waited < 3600
    pending = [row for row in rows if row.state == "PENDING"]
    assert pending and all(row.node is None and row.nodes == "" for row in pending)


def test_parse_queue_keeps_reason_with_spaces() -> None:
    (row,) = [row for row in parse_queue(recorded("23.11", "squeue")) if row.job_id == 16]
    assert row.reason == "ReqNodeNotAvail, Reserved for maintenance"
    assert expected_start(row, None) is not None


def test_parse_queue_of_pending_job_has_no_node() -> None:
    # 24.11 prints n/a, 22.05 nothing
    for host in ("n/a", ""):
        line = f"11|PENDING|Resources|2026-11-22T12:00:00|2026-11-22T09:46:31|{host}||gpu|a|b c\n"
        (parsed,) = parse_queue(line)
        assert parsed.node is None and parsed.name == "a|b c"
    assert parse_queue("") == []


@given(st.text(st.characters(exclude_characters=LINE_BREAKS), min_size=1, max_size=40))
def test_parse_queue_keeps_any_name(name: str) -> None:
    (parsed,) = parse_queue(f"5|RUNNING|None|1|1|n1|n1|gpu|{name}\n")
    assert parsed.name == name.strip()


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("0:00", 0),
        ("1:02", 62),
        ("01:02:03", 3723),
        ("2-00:00:10", 172_810),
        ("INVALID", None),
        ("", None),
        ("7", None),
    ],
)
def test_parse_queue_reads_the_seconds_of_a_run(printed: str, expected: float | None) -> None:
    (parsed,) = parse_queue(
        f"{printed}|5|RUNNING|None|1|1|n1|n1|gpu|a|b\n" if printed != "7" else "5|R|a|b|c|d|e|f|x\n"
    )
    assert (parsed.job_id, parsed.run_s) == (5, expected)
    assert run_seconds(printed) == expected


def test_parse_queue_passes_over_lines_that_are_no_rows() -> None:
    row = "5|RUNNING|None|1|1|n1|n1|gpu|bouchet-x-1"
    (parsed,) = parse_queue(f"Welcome to Cluster\nCLUSTER: one\n{row}\nslurm: warning\n")
    assert parsed.job_id == 5
    assert parse_queue("CLUSTER: one\n") == []


def test_parse_accounting_passes_over_lines_that_are_no_rows() -> None:
    assert [row.job_id for row in parse_accounting("Welcome\n7|COMPLETED|0:0|n1|2001|bouchet-a-1\n")] == [7]


@pytest.mark.parametrize("text", ["hello", "x|PENDING|a|b|c|d|e|f|g", "1|2|3"])
def test_parse_queue_of_other_text_raises(text: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_queue(text)


def test_parse_usage_sums_by_partition() -> None:
    usage = parse_usage(recorded("24.11", "held"))
    assert usage["gpu_devel"] == UserUsage(submitted=1, running=1, gpus=1)
    assert usage["scavenge_gpu"] == UserUsage(submitted=1), "pending jobs count, and use no GPU"


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ("cpu=2,mem=6G,node=1,billing=2,gres/gpu=2,gres/gpu:h200=2", 2),
        ("cpu=2,mem=6G,node=1,gres/gpu:a100=1,gres/gpu:h200=2", 3),
        ("cpu=2,mem=6G,node=1", 0),
    ],
)
def test_parse_usage_counts_gpus_of_tres(tres: str, gpus: int) -> None:
    usage = parse_usage(f"{'RUNNING':>20}{'gpu':>60}{tres:>300}\n")
    assert usage["gpu"].gpus == gpus and usage["gpu"].running == 1


# sacct and scontrol


@pytest.mark.parametrize("release", RELEASES)
def test_parse_accounting_reads_every_release(release: str) -> None:
    rows = parse_accounting(recorded(release, "sacct"))
    assert rows and all(parse_state(row.state) and row.uid == "2001" and row.name for row in rows)


def test_parse_accounting_of_requeued_job_returns_every_run() -> None:
    text = "5|NODE_FAIL|1:0|node1|2001|bouchet-a-1\n5|CANCELLED by 2001|0:15|node2|2001|bouchet-a|1\n"
    assert [(r.state, r.uid, r.name) for r in parse_accounting(text)] == [
        ("NODE_FAIL", "2001", "bouchet-a-1"),
        ("CANCELLED by 2001", "2001", "bouchet-a|1"),
    ]
    assert parse_accounting("") == []


def test_parse_accounting_of_other_text_raises() -> None:
    with pytest.raises(SlurmOutputError):
        parse_accounting("sacct: what")


@pytest.mark.parametrize("release", RELEASES)
def test_parse_job_reads_every_release(release: str) -> None:
    parsed = parse_job(recorded(release, "show_job"))
    assert parsed.job_id == 7 and parsed.name.startswith("bouchet-") and parsed.uid == "2001"
    assert parse_state(parsed.state)
    assert expand_nodes(parsed.nodes)


def test_parse_job_ignores_free_text_at_the_end() -> None:
    assert parse_job(recorded("23.11", "show_job")) == parse_job(recorded("25.05", "show_job"))


def test_parse_job_returns_all_fields() -> None:
    parsed = parse_job(
        "JobId=1 JobName=bouchet-a-1 UserId=researcher(2001) JobState=TIMEOUT Reason=TimeLimit Dependency=(null) "
        "ExitCode=0:15 RunTime=00:01:36 Partition=day NodeList=node[1-2] BatchHost=node1 Command=/home/r/x=y.sbatch\n"
    )
    fields = (parsed.job_id, parsed.state, parsed.exit_code, parsed.nodes, parsed.reason, parsed.name)
    assert fields == (1, "TIMEOUT", "0:15", "node[1-2]", "TimeLimit", "bouchet-a-1")


def test_parse_job_of_other_text_raises() -> None:
    with pytest.raises(SlurmOutputError):
        parse_job("No jobs in the system")


# sbatch


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("17\n", 17),
        ("17;cluster\n", 17),
        ("a warning\n18\n", 18),
        ("19\nYour job was sent to gpu2\n", 19),
        ("Submitted batch job 20\n", 20),
        ("hello\nSubmitted batch job 21 on cluster bouchet\n", 21),
    ],
)
def test_parse_job_id_accepts_parsable_output(text: str, number: int) -> None:
    assert parse_job_id(text) == number


@pytest.mark.parametrize("text", ["", "Submitted batch job", "x;y", "17 jobs", "Submitted batch job 17 of 20"])
def test_parse_job_id_of_other_text_raises(text: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_job_id(text)


@pytest.mark.parametrize("release", RELEASES)
def test_parse_start_estimate_reads_every_release(release: str) -> None:
    estimate = parse_start_estimate(recorded(release, "test_only"))
    assert estimate is not None and expand_nodes(estimate.nodes)
    assert start_sort_key(estimate.start) < start_sort_key("1895340400")


def test_parse_start_estimate_without_time_returns_none() -> None:
    text = "sbatch: Job 4 to start at 2026-11-22T09:46:37 using 1 processors on nodes node1 in partition gpu_h200\n"
    estimate = parse_start_estimate(text)
    assert estimate is not None and (estimate.start, estimate.nodes) == ("2026-11-22T09:46:37", "node1")
    assert parse_start_estimate("allocation failure: Requested node configuration is not available") is None


# times


def test_expected_start_takes_the_zone_from_the_submission() -> None:
    assert expected_start(row("2026-11-22T12:00:00"), SUBMITTED) == datetime(2026, 11, 22, 17, tzinfo=UTC)


@given(st.integers(-48, 56), st.integers(-120, 120), st.integers(0, 10**6))
def test_expected_start_is_right_in_any_zone_with_clock_skew(quarters: int, skew_s: int, ahead_s: int) -> None:
    zone = timedelta(minutes=15 * quarters)
    start, submitted = SUBMITTED + timedelta(seconds=ahead_s), SUBMITTED + zone + timedelta(seconds=skew_s)
    printed = row(f"{start + zone:%Y-%m-%dT%H:%M:%S}", f"{submitted:%Y-%m-%dT%H:%M:%S}")
    assert expected_start(printed, SUBMITTED) == start.replace(microsecond=0)


@pytest.mark.parametrize("start", ["N/A", "Unknown", "", "(null)", "Tomorr 12:00", "12:30"])
def test_expected_start_without_full_date_is_none(start: str) -> None:
    assert expected_start(row(start), SUBMITTED) is None


def test_expected_start_in_seconds_needs_no_zone() -> None:
    assert expected_start(row("1795341792"), None) == datetime.fromtimestamp(1795341792, UTC)


@given(st.integers(0, 4_000_000_000), st.integers(0, 10**7))
def test_queue_wait_in_seconds_needs_no_zone(submitted: int, waited: int) -> None:
    (parsed,) = parse_queue(f"5|RUNNING|None|{submitted + waited}|{submitted}|n1|n1|gpu|x\n")
    assert queue_wait_s(parsed) == waited


# node lists


@given(st.lists(st.tuples(st.sampled_from(["node", "r01g", "a-b"]), st.integers(0, 999)), min_size=1, max_size=8))
def test_expand_nodes_of_plain_list_returns_its_names(nodes: list[tuple[str, int]]) -> None:
    names = [f"{stem}{number}" for stem, number in nodes]
    assert expand_nodes(",".join(names)) == names


@given(st.integers(0, 500), st.integers(0, 40), st.integers(1, 5))
def test_expand_nodes_of_range_keeps_its_width(first: int, more: int, width: int) -> None:
    low = str(first).zfill(width)
    expanded = expand_nodes(f"n[{low}-{first + more}]")
    assert [int(name[1:]) for name in expanded] == list(range(first, first + more + 1))
    assert all(len(name) >= len(low) + 1 for name in expanded)


def test_expand_nodes_accepts_several_brackets_in_a_name() -> None:
    assert expand_nodes("a[1-2]b[3,05],c9") == ["a1b3", "a1b05", "a2b3", "a2b05", "c9"]


@pytest.mark.parametrize("text", ["n[1-2", "n1-2]", "n[a-b]", "n[]", "n1,,n2", "[[1]]"])
def test_expand_nodes_of_broken_list_raises(text: str) -> None:
    with pytest.raises(SlurmOutputError):
        expand_nodes(text)


def test_parse_maintenance_counts_what_keeps_a_whole_partition() -> None:
    line = "ReservationName={name} StartTime={start} EndTime=1796256000 PartitionName={partition} Flags={flags}"
    text = "\n".join(
        (
            line.format(name="all", start=1796212800, partition="(null)", flags="MAINT,IGNORE_JOBS,ALL_NODES"),
            line.format(name="one", start=1796212800, partition="gpu_h200", flags="MAINT,PART_NODES"),
            line.format(name="some", start=1796212800, partition="(null)", flags="MAINT,SPEC_NODES"),
            line.format(name="class", start=1796212800, partition="gpu_h200", flags="SPEC_NODES"),
            line.format(name="local", start="2026-12-02T08:00:00", partition="gpu_h200", flags="MAINT"),
        )
    )
    assert [window.partition for window in parse_maintenance(text)] == ["", "gpu_h200"]
    assert all((window.end - window.start).total_seconds() == 43_200 for window in parse_maintenance(text))
    assert parse_maintenance("No reservations in the system\n") == []
