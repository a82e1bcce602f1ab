"""A bare `bouchet`, which starts Claude Code, and `bouchet env`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from bouchet_cli.integrations.snippets import CLIENTS
from bouchet_core.provenance import SmokeCheck, SmokeTest

from tests.cli.harness import (
    ADMIN_KEY,
    ALIAS,
    KEY,
    QWEN,
    TO_QUEUED,
    Bouchet,
    advance,
    change_job,
    one_line_error,
    script,
)
from tests.waiting import wait_for


def break_tools(bouchet: Bouchet, identity: str) -> None:
    """Record a smoke test whose tool call failed."""
    smoke = SmokeTest(tools=SmokeCheck(result="failed", message="the call was plain text"))
    change_job(bouchet.store, identity, smoke=smoke)


def test_env_sets_what_claude_code_needs_in_a_shell(bouchet: Bouchet) -> None:
    bouchet.launch_ready()
    old = {
        "BOUCHET_ADMIN_KEY": ADMIN_KEY,
        "ANTHROPIC_API_KEY": "sk-old",
        "CLAUDE_CODE_USE_VERTEX": "1",
        "ANTHROPIC_LOG": "debug",
    }
    done = bouchet("env", **old)
    assert done.err.startswith("warning: "), "the window of 40,960 tokens is small"
    printed = subprocess.run(
        ["sh", "-c", f"{done.out}\nenv"],
        env={"PATH": "/usr/bin:/bin", **old},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    values = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
    assert not old.keys() & values.keys()
    assert values["ANTHROPIC_BASE_URL"] == bouchet.proxy.url
    assert values["ANTHROPIC_AUTH_TOKEN"] == KEY
    assert values["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "40960"
    assert values["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "8192"
    names = ("MODEL", "DEFAULT_OPUS_MODEL", "DEFAULT_SONNET_MODEL", "DEFAULT_HAIKU_MODEL")
    assert {values[f"ANTHROPIC_{name}"] for name in names} == {ALIAS}


def test_env_prints_json_and_fish(bouchet: Bouchet) -> None:
    bouchet.launch_ready()
    assert json.loads(bouchet("env", "--json").out)["CLAUDE_CODE_SUBAGENT_MODEL"] == ALIAS
    assert f"set -gx ANTHROPIC_MODEL '{ALIAS}';" in bouchet("env", "--shell", "fish").out


@pytest.mark.parametrize("client", ["aider", "codex", "key"])
def test_env_for_another_client_in_fish_is_refused(bouchet: Bouchet, client: str) -> None:
    bouchet.launch_ready()
    assert one_line_error(bouchet("env", "--shell", "fish", "--for", client), 2)


def test_env_of_a_queued_deployment_is_not_ready(bouchet: Bouchet) -> None:
    advance(bouchet.store, bouchet.launch(), *TO_QUEUED)
    done = bouchet("env")
    assert one_line_error(done, 3) and "waits for GPUs" in done.err


@pytest.mark.parametrize("client", CLIENTS)
def test_env_for_a_client_never_prints_the_key(bouchet: Bouchet, client: str) -> None:
    bouchet.launch_ready()
    done = bouchet("env", "--for", client)
    assert done.status == 0, done.err
    assert KEY not in done.out + done.err and ALIAS in done.out
    document = json.loads(bouchet("env", "--for", client, "--json").out)
    assert (document["client"], document["text"]) == (client, done.out.removesuffix("\n"))


@pytest.mark.parametrize(
    "line", ["env", "env --json", "env --shell fish", *(f"env --for {client}" for client in (*CLIENTS, "key")),
             "keys add alice", "keys list --json", "status --json", "doctor --json", "models --json"]
)  # fmt: skip
def test_command_for_other_programs_never_prints_the_admin_key(bouchet: Bouchet, line: str) -> None:
    bouchet.launch_ready()
    done = bouchet(*line.split(), BOUCHET_ADMIN_KEY=ADMIN_KEY)
    assert done.out and ADMIN_KEY not in done.out + done.err


def test_claude_code_gets_the_admin_key_in_no_variable_and_no_file(bouchet: Bouchet, tmp_path: Path) -> None:
    bouchet.launch_ready()
    script(tmp_path / "claude", 'echo began; env; cat "$2"; for a in "$@"; do echo "$a"; done')
    path = f"{tmp_path}:{bouchet.environment['PATH']}"
    done = bouchet.process(PATH=path, BOUCHET_ADMIN_KEY=ADMIN_KEY)
    assert done.out.startswith("began\n") and KEY in done.out
    assert ADMIN_KEY not in done.out + done.err
    holding = [file for file in tmp_path.rglob("*") if file.is_file() and ADMIN_KEY in file.read_text()]
    assert holding == [tmp_path / ".env"]


def test_env_for_key_prints_only_the_key(bouchet: Bouchet) -> None:
    assert bouchet("env", "--for", "key").out == f"{KEY}\n"
    assert json.loads(bouchet("env", "--for", "key", "--json").out) == {"key": KEY}


def test_bare_bouchet_without_claude_code_explains_how_to_install_it(bouchet: Bouchet, tmp_path: Path) -> None:
    bouchet.launch_ready()
    done = bouchet(PATH=str(tmp_path))
    assert one_line_error(done, 1) and "@anthropic-ai/claude-code" in done.err


def test_bare_bouchet_becomes_claude_code(bouchet: Bouchet, tmp_path: Path) -> None:
    bouchet.launch_ready()
    body = 'echo "$ANTHROPIC_AUTH_TOKEN $ANTHROPIC_API_KEY"\nfor a in "$@"; do echo "$a"; done\n'
    script(tmp_path / "claude", body + 'test ! -r "$2" || cat "$2"')
    path = f"{tmp_path}:{bouchet.environment['PATH']}"
    done = bouchet.process("--model", QWEN, "--", "-p", "hello  there", PATH=path, ANTHROPIC_API_KEY="sk-old")
    token, flag, file, *rest, block = done.out.splitlines()
    assert done.status == 0
    assert (token, flag, rest) == (f"{KEY} ", "--settings", ["-p", "hello  there"])
    assert file.startswith("/proc/self/fd/"), "an argument would show the key to every user of this machine"
    env = json.loads(block)["env"]
    assert (env["ANTHROPIC_BASE_URL"], env["ANTHROPIC_AUTH_TOKEN"]) == (bouchet.proxy.url, KEY)
    assert (env["ANTHROPIC_API_KEY"], env["CLAUDE_CODE_USE_BEDROCK"]) == ("", "")


def test_claude_code_with_own_settings_gets_no_others(bouchet: Bouchet, tmp_path: Path) -> None:
    bouchet.launch_ready()
    script(tmp_path / "claude", 'echo "$@"')
    done = bouchet.process("--", "--settings", "mine.json", PATH=f"{tmp_path}:{bouchet.environment['PATH']}")
    assert done.out == "--settings mine.json\n"


def test_claude_code_for_a_model_with_broken_tools_starts_without_tools(bouchet: Bouchet, tmp_path: Path) -> None:
    break_tools(bouchet, bouchet.launch_ready())
    script(tmp_path / "claude", 'shift 2\nfor a in "$@"; do echo "<$a>"; done')
    done = bouchet.process("--", "-p", "hello", PATH=f"{tmp_path}:{bouchet.environment['PATH']}")
    assert done.out.splitlines() == ["<--tools>", "<>", "<--strict-mcp-config>", "<-p>", "<hello>"]
    assert "the call was plain text" in done.err


def test_bare_bouchet_on_a_terminal_asks_which_model_and_says_how_to_resume(bouchet: Bouchet, tmp_path: Path) -> None:
    bouchet.launch_ready(), bouchet.launch_ready("--name", "other")
    sessions = '"$HOME/.claude/projects/"$(pwd | sed "s/[^A-Za-z0-9]/-/g")'
    script(tmp_path / "claude", f'echo "on $ANTHROPIC_MODEL"; mkdir -p {sessions}; echo > {sessions}/abc.jsonl; exit 7')
    path = f"{tmp_path}:{bouchet.environment['PATH']}"
    with bouchet.terminal(PATH=path, HOME=str(tmp_path)) as tty:
        tty.until("1  other")
        tty.until("Which model?")
        tty.type("3\n")
        tty.until("Which model?")
        tty.type("2\n")
        tty.until("warning: ")
        tty.until("Press Enter")
        tty.type("\n")
        tty.until(f"on {ALIAS}")
        tty.until("bouchet -- --resume abc")
        assert tty.rest()[0] == 7


def test_session_on_a_terminal_stops_and_goes_on_with_the_shell(bouchet: Bouchet, tmp_path: Path) -> None:
    bouchet.launch_ready()
    script(tmp_path / "claude", 'echo "I am $$"; kill -STOP $$; echo continued; kill -TERM $$')
    with bouchet.terminal(PATH=f"{tmp_path}:{bouchet.environment['PATH']}", HOME=str(tmp_path)) as tty:
        tty.until("Press Enter")
        tty.type("\n")
        tty.until("I am")
        wait_for(lambda: os.waitid(os.P_PID, tty.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None)
        tty.process.send_signal(signal.SIGCONT)
        tty.until("continued")
        assert tty.rest()[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize("arguments", [("-p", "hi"), ("--permission-mode", "plan"), ("--model", "x", "--resume", "1")])
def test_option_of_claude_code_gets_a_hint(bouchet: Bouchet, arguments: tuple[str, ...]) -> None:
    done = bouchet(*arguments)
    assert one_line_error(done, 2) and "`bouchet -- --" in done.err.replace("-- -p", "-- --p")


def test_env_of_a_model_with_broken_tools_warns(bouchet: Bouchet) -> None:
    break_tools(bouchet, bouchet.launch_ready())
    assert "`claude --tools '' --strict-mcp-config`" in bouchet("env").err


def test_bare_bouchet_offers_a_launch_when_nothing_is_running(bouchet: Bouchet) -> None:
    with bouchet.terminal() as tty:
        tty.until("Qwen/Qwen3-Coder-Next-FP8 now? [y/N]")
        tty.type("n\n")
        status, _ = tty.rest()
    assert (status, bouchet.store.live()) == (3, [])
