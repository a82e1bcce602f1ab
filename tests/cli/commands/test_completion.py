"""Shell completion: the completions of a command line, and the code that a real bash runs."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from bouchet_cli.commands import COMMANDS
from bouchet_cli.commands.completion import complete, option_values
from bouchet_cli.context import CommandContext

from tests.cli.harness import ALIAS, NOTHING_LISTENS, QWEN, Bouchet, one_line_error, script

CATALOG = [ALIAS, "bouchet-qwen3-coder-next", QWEN, "Qwen/Qwen3-Coder-Next-FP8"]


class Exited(BaseException):
    """Raised in place of the exit of the process."""


def completions(bouchet: Bouchet, monkeypatch: pytest.MonkeyPatch, line: str, **extra: str) -> list[str]:
    """Return the completions of a command line whose last argument is incomplete or empty."""

    def exit_process(status: int) -> None:
        raise Exited(status)

    variables = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    output = io.StringIO()
    with pytest.raises(Exited, match="0"):
        complete(CommandContext({**bouchet.environment, **variables, **extra}), output, exit_process)
    return sorted(completion.strip() for completion in output.getvalue().splitlines())


@pytest.fixture(autouse=True)
def _no_debug_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep argcomplete from opening file descriptor 9, which belongs to the test process."""
    monkeypatch.setattr("argcomplete.finders.CompletionFinder._init_debug_stream", lambda _: None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bouchet ", sorted(COMMANDS)),
        ("bouchet lau", ["launch"]),
        ("bouchet --", ["--help", "--model", "--version"]),
        ("bouchet --model ", ["mine"]),
        ("bouchet launch bou", [ALIAS, "bouchet-qwen3-coder-next"]),
        ("bouchet launch --model ", sorted(CATALOG)),
        ("bouchet launch --quant ", ["fp8", "none"]),
        ("bouchet launch --gpus ", []),
        ("bouchet launch --as s", ["sonnet"]),
        ("bouchet launch --wa", ["--wait"]),
        ("bouchet cancel m", ["mine"]),
        ("bouchet env --shell f", ["fish"]),
        ("bouchet image build cpu-", ["cpu-0.32.0", "cpu-arm64-0.32.0"]),
        ("bouchet completion ", ["bash", "fish", "zsh"]),
        ("bouchet nosuch x", []),
    ],
)
def test_completions_of_a_command_line(
    bouchet: Bouchet, monkeypatch: pytest.MonkeyPatch, line: str, expected: list[str]
) -> None:
    bouchet.launch(QWEN, "--name", "mine")
    assert completions(bouchet, monkeypatch, line) == expected


def test_completions_offer_options_after_all_values(bouchet: Bouchet, monkeypatch: pytest.MonkeyPatch) -> None:
    options = completions(bouchet, monkeypatch, f"bouchet launch {QWEN} ")
    assert "--gpus" in options and "--claude-on-terminal" not in options


def test_every_command_completes_its_options(bouchet: Bouchet, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in COMMANDS:
        assert "--help" in completions(bouchet, monkeypatch, f"bouchet {command} --")


def test_option_values_have_descriptions_without_control_characters(bouchet: Bouchet) -> None:
    values = option_values("MODEL", CommandContext(bouchet.environment))
    assert set(values) == set(CATALOG)
    assert values[ALIAS] == "32B dense"


@pytest.mark.parametrize("extra", [{"BOUCHET_API_URL": NOTHING_LISTENS}, {"BOUCHET_ENV_FILE": "/nowhere"}])
def test_completions_without_api_are_empty(
    bouchet: Bouchet, monkeypatch: pytest.MonkeyPatch, extra: dict[str, str]
) -> None:
    assert option_values("NAME", CommandContext({**bouchet.environment, **extra})) == {}


def test_real_bash_completes_names(bouchet: Bouchet, tmp_path: Path) -> None:
    bouchet.launch(QWEN, "--name", "mine")
    script(tmp_path / "bouchet", f'exec "{sys.executable}" -m bouchet_cli "$@"')
    code = bouchet("completion", "bash").out
    line = "./bouchet cancel "
    request = f"COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_TYPE=9; _python_argcomplete ./bouchet"
    done = subprocess.run(
        ["bash", "-c", f'{code}\n{request}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        cwd=tmp_path,
        env=dict(bouchet.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout.split(), done.stderr) == (["mine"], "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_code_registers_both_spellings(bouchet: Bouchet, shell: str) -> None:
    done = bouchet("completion", shell)
    assert (done.status, done.err) == (0, "")
    assert "bouchet" in done.out and "./bouchet" in done.out
    if shell != "fish":
        assert done.out.startswith("#compdef bouchet")


def test_completion_without_shell_is_refused(bouchet: Bouchet) -> None:
    assert one_line_error(bouchet("completion"), 2)


def test_normal_commands_do_not_import_argcomplete_or_rich() -> None:
    code = (
        "import sys; from bouchet_cli.__main__ import main; main(['keys', 'add'], {}); "
        "main(['status'], {'BOUCHET_ENV_FILE': '/nowhere'}); "
        "print({'argcomplete', 'rich', 'asyncio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
