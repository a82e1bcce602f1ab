"""Completion: what may follow, and a real bash that asks for it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

import pytest
from bouchet_cli.client.settings import PROJECT
from bouchet_cli.commands import COMMANDS
from bouchet_cli.shell_completion import Answer, answers

from tests.cli.conftest import Bouchet
from tests.cli.test_commands import launched

THERE = {"MODEL": [("bouchet-qwen3-32b", "32B"), ("Qwen/Qwen3-32B", "32B")], "NAME": [("mine", "ready")]}


def lookup(placeholder: str) -> Sequence[Answer]:
    return THERE[placeholder]


def words(*typed: str) -> list[str]:
    return [word for word, _ in answers(typed, lookup)]


def test_first_come_the_commands() -> None:
    assert words("") == list(COMMANDS)
    assert words("lau") == ["launch"]
    assert {"--model", "--launch", "--status"} < set(words("--"))


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (("launch", "bou"), ["bouchet-qwen3-32b"]),
        (("launch", "--model", ""), ["bouchet-qwen3-32b", "Qwen/Qwen3-32B"]),
        (("launch", "--quant", ""), ["fp8", "none"]),
        (("launch", "--gpus", ""), []),
        (("launch", "--as", "s"), ["sonnet"]),
        (("launch", "--wa"), ["--wait"]),
        (("--launch", "--model", "Q"), ["Qwen/Qwen3-32B"]),
        (("--model", ""), ["mine"]),
        (("cancel", "m"), ["mine"]),
        (("env", "--shell", "f"), ["fish"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("nosuch", "x"), []),
    ],
)
def test_what_may_follow(typed: tuple[str, ...], found: list[str]) -> None:
    assert words(*typed) == found


def test_an_option_is_offered_once() -> None:
    assert "--gpus" in words("launch", "--")
    assert "--gpus" not in words("launch", "--gpus", "1", "--")
    assert "--claude-on-terminal" not in words("launch", "--")


def test_every_command_can_be_completed() -> None:
    for command in COMMANDS:
        assert "--help" in words(command, "--")


def complete(bouchet: Bouchet, *typed: str, **environment: str) -> list[str]:
    """What a real bash offers for these words."""
    script = bouchet("completion", "bash").out
    script = script.replace(shlex.quote(str(PROJECT / "bouchet")), shlex.join(bouchet.program()))
    line = shlex.join(["bouchet", *typed])
    asking = f'COMP_WORDS=({line}); COMP_CWORD={len(typed)}; _bouchet; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{script}\n{asking}"],
        env={**bouchet.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_a_real_bash(bouchet: Bouchet) -> None:
    launched(bouchet, "Qwen/Qwen3-32B", "--name", "mine")
    assert complete(bouchet, "cancel", "") == ["mine"]
    assert complete(bouchet, "launch", "--model", "Qwen/Qwen3-3") == ["Qwen/Qwen3-32B"]


def test_without_a_stack_completion_is_silent(bouchet: Bouchet) -> None:
    done = bouchet("completion", "--answer", "--", "cancel", "", BOUCHET_API_URL="http://127.0.0.1:1")
    assert (done.status, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_call_the_same(bouchet: Bouchet, shell: str) -> None:
    done = bouchet("completion", shell)
    assert (done.status, done.err) == (0, "")
    assert f"{shlex.quote(str(PROJECT / 'bouchet'))} completion --answer -- " in done.out
    assert "@program@" not in done.out
