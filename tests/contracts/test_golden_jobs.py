"""Whole jobs, compared whole with what was looked at and kept (golden_jobs.py says how to renew it)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contracts.golden_jobs import GOLDEN, SHAPES, whole_job


@pytest.mark.parametrize("name", SHAPES)
def test_a_job_is_the_one_that_was_looked_at(name: str, tmp_path: Path) -> None:
    assert whole_job(SHAPES[name], tmp_path) == (GOLDEN / f"{name}.txt").read_text()


def test_there_are_no_others() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(SHAPES)
