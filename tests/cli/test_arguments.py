"""The command line: older spellings, mistakes, exit statuses."""

from __future__ import annotations

import pytest
from bouchet_cli.arguments import make_parser, translate_legacy
from bouchet_cli.client.errors import UsageError
from bouchet_cli.commands import COMMANDS

from tests.cli.harness import QWEN, Bouchet, one_line_error


@pytest.mark.parametrize(
    ("older", "current"),
    [
        ("--launch --model X --gpus 1", "launch --claude-on-terminal --model X --gpus 1"),
        ("--model X --launch", "launch --claude-on-terminal --model X"),
        ("--status --json", "status --json"),
        ("--cancel", "cancel"),
        ("--tunnel", "tunnel"),
        ("--model X", "--model X"),
        ("launch X --name --status", "launch X --name --status"),
        ("", ""),
    ],
)
def test_older_spelling_becomes_the_current_one(older: str, current: str) -> None:
    assert translate_legacy(older.split()) == current.split()


def test_two_older_commands_are_refused() -> None:
    with pytest.raises(UsageError, match="--status and --cancel"):
        translate_legacy(["--status", "--cancel"])


@pytest.mark.parametrize(
    ("arguments", "status", "mentioned"),
    [
        (("launch", "Qwen/Qwen3-23B"), 3, "did you mean"),
        (("launch", QWEN, "--time", "six"), 2, "--time: "),
        (("launch", QWEN, "--name", "Ä b"), 2, "--name: "),
        (("launch", QWEN, "--idle-timeout", "-1"), 2, "--idle-timeout: "),
        (("launch", QWEN, "--max-len", "1", "--dry-run"), 2, "--max-len: "),
        (("launch", QWEN, "--model", "other"), 2, "other"),
        (("launch", "--as", "opus,sonett"), 2, "'sonett'"),
        (("launch", "--quant", "int4"), 2, "--quant"),
        (("models", "--bogus"), 2, "`bouchet models --help`"),
        (("launch", "--max-lenght", "5"), 2, "did you mean --max-len?"),
        (("launch", "a", "b"), 2, "does not take the argument b"),
        (("logs", "nothing-like-it"), 3, "no deployment"),
        (("--bogus",), 2, "`bouchet --help`"),
        (("it's",), 2, "`bouchet --help`"),
        (("lunch",), 2, "`bouchet launch`"),
        (("--status", "--models"), 2, "--status and --models"),
        (("status", "--", "-p"), 2, "`--`"),
        (("env",), 3, "bouchet launch"),
        (("chat",), 3, "bouchet launch"),
        ((), 3, "bouchet launch"),
    ],
)
def test_mistake_is_one_line_with_a_status(
    bouchet: Bouchet, arguments: tuple[str, ...], status: int, mentioned: str
) -> None:
    done = bouchet(*arguments)
    assert one_line_error(done, status) and mentioned in done.err


def test_help_lists_every_command_in_order() -> None:
    text = make_parser().format_help()
    places = [text.index(f"\n    {name} ") for name in COMMANDS]
    assert places == sorted(places)
