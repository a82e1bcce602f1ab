"""The grammar of .env."""

from __future__ import annotations

import pytest
from bouchet_core.env_file import EnvEntry, EnvLineError, parse_env_lines
from hypothesis import given
from hypothesis import strategies as st


def test_parse_env_lines_skips_comments_and_removes_quotes() -> None:
    text = "# a comment\n\nA=1\nB=\"two words\"\n  C='x'\nD=a#b\nE=\n"
    assert parse_env_lines(text) == [
        EnvEntry(3, "A", "1"),
        EnvEntry(4, "B", "two words"),
        EnvEntry(5, "C", "x"),
        EnvEntry(6, "D", "a#b"),
        EnvEntry(7, "E", ""),
    ]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("export A=1", 1, "`export`"),
        ("A=1\nA=2", 2, "set twice (first in line 1)"),
        ("\nA = 1", 2, "write A=1"),
        ("PORT: 1", 1, "write PORT=value"),
        ("=1", 1, "not KEY=value"),
    ],
)
def test_parse_env_lines_bad_line_names_line_and_fix(text: str, line: int, problem: str) -> None:
    with pytest.raises(EnvLineError) as caught:
        parse_env_lines(text)
    assert caught.value.line == line and problem in caught.value.problem


@given(st.text())
def test_parse_env_lines_any_text_parses_or_raises_one_error(text: str) -> None:
    try:
        parse_env_lines(text)
    except EnvLineError as exc:
        assert exc.line >= 1
