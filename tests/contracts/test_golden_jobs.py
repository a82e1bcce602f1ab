"""Whole jobs, compared with reviewed golden files (golden_jobs.py writes them)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contracts.golden_jobs import GOLDEN, OTHER_SITES, SHAPES, submission, whole_job

# the others are of the same kinds
QUICK = {"one-gpu-fp8", "two-nodes-pipeline-parallel", "demo-on-cpus"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]
)
def test_job_equals_its_golden_file(name: str, tmp_path: Path) -> None:
    assert whole_job(SHAPES[name], tmp_path) == (GOLDEN / f"{name}.txt").read_text()


def test_every_golden_file_has_a_shape() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SHAPES)


@pytest.mark.parametrize("name", OTHER_SITES)
def test_submission_to_another_cluster_equals_its_golden_file(name: str) -> None:
    assert submission(OTHER_SITES[name]) == (GOLDEN / f"sites/{name}.txt").read_text()
