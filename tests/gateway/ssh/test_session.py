"""Quoting of command lines for the remote login shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from bouchet_gateway.ssh.login_shell import quoted
from hypothesis import given, settings
from hypothesis import strategies as st


def parse_with_shell(line: str, home: Path) -> list[str]:
    """Return the arguments that a shell makes of a line."""
    script = f'show() {{ for argument in "$@"; do printf \'%s\\0\' "$argument"; done; }}; show {line}'
    done = subprocess.run(["sh", "-c", script], env={**os.environ, "HOME": str(home)}, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1), min_size=8
    )
)
def test_quoted_arguments_arrive_unchanged(lists: list[list[str]]) -> None:
    """One shell parses several lists, since starting it takes most of the time."""
    arguments = [argument for part in lists for argument in part if not argument.startswith(("~/", "--"))]
    assert parse_with_shell(quoted(arguments), Path("/nowhere")) == arguments


@pytest.mark.parametrize("home", ["/home/me", "/home/o'neill x"])
def test_quoted_tilde_is_the_remote_home(home: str) -> None:
    arguments = ["~/a 'b'", "~/", "--output=~/x y", "~", "a~/b", "~root/x", "-o=~/x"]
    expected = [f"{home}/a 'b'", f"{home}/", f"--output={home}/x y", "~", "a~/b", "~root/x", "-o=~/x"]
    assert parse_with_shell(quoted(arguments), Path(home)) == expected
