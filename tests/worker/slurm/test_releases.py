"""Slurm's output of several releases (slurm_words/), read by the same parsers."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_core.placement import UserUsage
from bouchet_worker.slurm.parsing import (
    expand_nodes,
    expected_start,
    parse_accounting,
    parse_job,
    parse_queue,
    parse_start_estimate,
    parse_usage,
    queue_wait_s,
    start_sort_key,
)
from bouchet_worker.slurm.states import parse_state
from hypothesis import given
from hypothesis import strategies as st

WORDS = Path(__file__).parents[1] / "slurm_output"
RELEASES = sorted(path.name for path in WORDS.iterdir() if path.is_dir())


def text(release: str, name: str) -> str:
    return (WORDS / release / f"{name}.txt").read_text()


def test_the_releases_in_use_are_there() -> None:
    assert RELEASES == ["22.05", "23.11", "24.11", "25.05"]


@pytest.mark.parametrize("release", RELEASES)
def test_the_queue(release: str) -> None:
    rows = parse_queue(text(release, "squeue"))
    assert rows and all(parse_state(row.state) for row in rows)
    running = next(row for row in rows if row.state == "RUNNING")
    assert running.node is not None and running.node in expand_nodes(running.nodes)
    waited = queue_wait_s(running)
    assert waited is not None and 0 <= waited < 3600
    pending = [row for row in rows if row.state == "PENDING"]
    assert pending and all(row.node is None and row.nodes == "" for row in pending)


def test_a_sentence_as_a_reason_stays_whole() -> None:
    (row,) = [row for row in parse_queue(text("23.11", "squeue")) if row.job_id == 16]
    assert row.reason == "ReqNodeNotAvail, Reserved for maintenance"
    assert expected_start(row, None) is not None


@pytest.mark.parametrize("release", RELEASES)
def test_the_controllers_line(release: str) -> None:
    row = parse_job(text(release, "show_job"))
    assert row.job_id == 7 and row.name.startswith("bouchet-") and row.uid == "2001"
    assert parse_state(row.state)
    assert expand_nodes(row.nodes)


def test_free_text_at_the_end_of_the_controllers_line_changes_nothing() -> None:
    old, new = parse_job(text("23.11", "show_job")), parse_job(text("25.05", "show_job"))
    assert old == new


@pytest.mark.parametrize("release", RELEASES)
def test_accounting(release: str) -> None:
    rows = parse_accounting(text(release, "sacct"))
    assert rows and all(parse_state(row.state) and row.uid == "2001" and row.name for row in rows)


@pytest.mark.parametrize("release", RELEASES)
def test_the_estimate(release: str) -> None:
    found = parse_start_estimate(text(release, "test_only"))
    assert found is not None and expand_nodes(found.nodes)
    assert start_sort_key(found.start) < start_sort_key("1895340400")


def test_what_a_user_holds_by_partition() -> None:
    held = parse_usage(text("24.11", "held"))
    assert held["gpu_devel"] == UserUsage(submitted=1, running=1, gpus=1)
    assert held["scavenge_gpu"] == UserUsage(submitted=1), "jobs that wait count, and hold no GPU"


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ("cpu=2,mem=6G,node=1,billing=2,gres/gpu=2,gres/gpu:h200=2", 2),
        ("cpu=2,mem=6G,node=1,gres/gpu:a100=1,gres/gpu:h200=2", 3),
        ("cpu=2,mem=6G,node=1", 0),
    ],
)
def test_gpus_in_a_list_of_resources(tres: str, gpus: int) -> None:
    held = parse_usage(f"{'RUNNING':>20}{'gpu':>60}{tres:>300}\n")
    assert held["gpu"].gpus == gpus and held["gpu"].running == 1


@given(st.text(st.characters(exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), min_size=1, max_size=40))
def test_any_name_comes_through_the_queue(name: str) -> None:
    (row,) = parse_queue(f"5|RUNNING|None|1|1|n1|n1|gpu|{name}\n")
    assert row.name == name.strip()


@given(st.integers(0, 4_000_000_000), st.integers(0, 10**7))
def test_the_wait_needs_no_zone(submitted: int, waited: int) -> None:
    row = parse_queue(f"5|RUNNING|None|{submitted + waited}|{submitted}|n1|n1|gpu|x\n")[0]
    assert queue_wait_s(row) == waited
    