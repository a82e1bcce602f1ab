"""Durations in Slurm's format."""

from __future__ import annotations

import contextlib

import pytest
from bouchet_core.errors import SlurmOutputError
from bouchet_core.values import format_duration, parse_duration
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 400 * 86_400))
def test_parse_duration_of_formatted_seconds_returns_them(seconds: int) -> None:
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
def test_parse_duration_accepts_every_form_of_sbatch(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@given(st.text(max_size=12))
def test_parse_duration_of_any_text_returns_seconds_or_raises(text: str) -> None:
    with contextlib.suppress(SlurmOutputError):
        assert parse_duration(text) >= 0


@pytest.mark.parametrize("text", ["", "UNLIMITED", "1:2:3:4", "-5", "1-", "a:b", "٣:٤"])
def test_parse_duration_of_other_text_raises(text: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_duration(text)
