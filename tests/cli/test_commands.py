"""Each command against a real API: what it prints, where, and its exit status."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.provenance import SmokeCheck, SmokeTest

from tests.cli.conftest import LOG, Bouchet, advance, end
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import KEY

QWEN = "Qwen/Qwen3-32B"
TO_READY = (Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING, Phase.READY)


def launched(bouchet: Bouchet, *arguments: str) -> str:
    """The id of a new deployment."""
    done = bouchet("launch", *(arguments or (QWEN,)), "--no-wait", "--json")
    assert done.status == 0, done.err
    return str(json.loads(done.out)["id"])


def test_launch_hands_every_option_over(bouchet: Bouchet) -> None:
    words = "--gpus 2 --nodes 1 --time 2-00:00:00 --partition gpu_h200 --quant none --max-len 4096 --name mine"
    more = "--account a --qos q --constraint c --as opus,haiku --idle-timeout 30"
    made = bouchet.store.get(launched(bouchet, "--model", QWEN, *words.split(), *more.split()))
    assert made.request.model_dump(exclude_none=True) == {
        "model": QWEN,
        "name": "mine",
        "gpus": 2,
        "nodes": 1,
        "time": "2-00:00:00",
        "partition": "gpu_h200",
        "quant": "none",
        "max_len": 4096,
        "account": "a",
        "qos": "q",
        "constraint": "c",
        "serve_as": ("opus", "haiku"),
        "idle_timeout_min": 30,
    }


def test_launch_takes_the_catalogs_default_and_does_not_wait_in_a_pipe(bouchet: Bouchet) -> None:
    done = bouchet("launch")
    assert done.status == 0
    assert "bouchet-qwen3-coder-next requested (id " in done.out


def test_launch_waits_until_it_is_ready(bouchet: Bouchet) -> None:
    def move(*phases: Phase) -> None:
        advance(bouchet.store, bouchet.store.live()[0].id, *phases)

    done = bouchet.reacting(
        {
            "requested (id": lambda: move(*TO_READY[:2]),
            "waits for GPUs": lambda: move(*TO_READY[2:]),
        },
        *("launch", QWEN, "--wait", "--json"),
    )
    assert done.status == 0
    assert json.loads(done.out)["phase"] == "ready"
    assert "waits for GPUs" in done.err
    assert "starts in 40m" in done.err


def test_launch_that_ends_says_why(bouchet: Bouchet) -> None:
    def worker() -> None:
        while not (live := bouchet.store.live()):
            time.sleep(0.05)
        end(bouchet.store, live[0].id, reason="the node ran out of memory; try --gpus 2")

    thread = threading.Thread(target=worker)
    thread.start()
    done = bouchet("launch", QWEN, "--wait")
    thread.join()
    assert (done.status, done.out) == (1, "")
    assert "the node ran out of memory; try --gpus 2" in done.err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("launch", "Qwen/Qwen3-23B"), 1, "did you mean qwen/qwen3-32b"),
        (("launch", QWEN, "--time", "six"), 1, "--time: must be a walltime"),
        (("launch", QWEN, "--name", "Ä b"), 1, "error: --name: must be lower-case letters"),
        (("launch", QWEN, "--idle-timeout", "-1"), 1, "--idle-timeout: must be greater"),
        (("launch", QWEN, "--max-len", "1", "--dry-run"), 1, "--max-len: must be greater"),
        (("keys", "add", "Ä b"), 1, "error: HOLDER: "),
        (("models", "--bogus"), 2, "--bogus; see `bouchet models --help`"),
        (("--bogus",), 2, "--bogus; see `bouchet --help`"),
        (("launch", QWEN, "--model", "other"), 2, "two models"),
        (("launch", "--as", "opus,sonett"), 2, "'sonett' is none of"),
        (("launch", "--quant", "int4"), 2, "invalid choice"),
        (("it's",), 2, "`bouchet --help` lists them"),
        (("lunch",), 2, "there is no command 'lunch'; did you mean `bouchet launch`?"),
        (("--status", "--models"), 2, "cannot be combined"),
        (("status", "--", "-p"), 2, "after `--`"),
        (("cancel", "nosuch"), 3, "bouchet status"),
        (("cancel",), 3, "nothing runs"),
        (("env",), 3, "bouchet launch"),
        (("chat",), 3, "bouchet launch"),
        ((), 3, "bouchet launch"),
        (("logs",), 3, "bouchet launch"),
    ],
)
def test_errors_are_one_line_with_a_status(
    bouchet: Bouchet, arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = bouchet(*arguments)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert words.lower() in done.err.lower()


def test_two_launches_of_one_name_the_second_is_told(bouchet: Bouchet) -> None:
    first = launched(bouchet)
    done = bouchet("launch", QWEN)
    assert done.status == 1
    assert first in done.err
    assert "--name" in done.err


def test_without_a_stack_it_says_make_up(bouchet: Bouchet, tmp_path: Path) -> None:
    silent = bouchet("status", BOUCHET_API_URL="http://127.0.0.1:1")
    assert (silent.status, "make up" in silent.err) == (4, True)
    wrong = bouchet("status", BOUCHET_API_KEY="wrong")
    assert (wrong.status, ".env" in wrong.err) == (4, True)
    for odd in ({"BOUCHET_API_URL": "127.0.0.1:4001"}, {"BOUCHET_API_URL": "http://h:x"}, {"BOUCHET_API_KEY": "a\nb"}):
        done = bouchet("status", **odd)
        assert (done.status, done.err.count("\n")) == (4, 1)
    other = bouchet("status", BOUCHET_API_URL=bouchet.proxy.url)
    assert (other.status, "another program" in other.err) == (4, True)
    none = bouchet("status", BOUCHET_ENV_FILE=str(tmp_path / "nowhere"))
    assert (none.status, "make up" in none.err) == (4, True)


def test_status_shows_what_runs_in_80_columns(bouchet: Bouchet) -> None:
    queued = launched(bouchet)
    advance(bouchet.store, queued, Phase.SUBMITTING, Phase.QUEUED)
    ready = launched(bouchet, "Qwen/Qwen3-Coder-Next-FP8", "--name", "n" * 63)
    advance(bouchet.store, ready, *TO_READY, window=262144)
    done = bouchet("status")
    assert done.status == 0
    assert max(len(line) for line in done.out.splitlines()) <= 80
    assert "\x1b" not in done.out
    for word in (
        "queued",
        "in 40m",
        "waits for GPUs",
        "gpu_h200, 2 x h200",
        "job 7",
        queued,
        "ready",
        "node12",
        "256k",
    ):
        assert word in done.out
    assert "tunnel to login: up" in done.out
    assert KEY not in done.out + done.err


def test_status_of_nothing_shows_how_the_last_one_ended(bouchet: Bouchet) -> None:
    assert "bouchet launch" in bouchet("status").out
    end(bouchet.store, launched(bouchet))
    done = bouchet("status")
    assert "nothing runs" in done.out
    assert "out of memory" in done.out
    assert "failed" in bouchet("status", "--all").out


def test_status_lives_without_the_gateway(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.tunnel = {}
    assert json.loads(bouchet("status", "--json").out)["tunnel"] is None
    done = bouchet("status")
    assert (done.status, "tunnel: unknown" in done.out) == (0, True)


def test_models_looks_like_the_catalog(bouchet: Bouchet) -> None:
    advance(bouchet.store, launched(bouchet), *TO_READY)
    narrow = bouchet("models").out.splitlines()
    assert narrow[0].split() == ["MODEL", "GPUS", "CTX", "QUANT", "STATUS", "SIZE", "USED"]
    assert max(len(line) for line in narrow) <= 80
    assert re.search(r"Qwen/Qwen3-32B +1 +40k +fp8 +unknown +- +-", "\n".join(narrow))
    assert any("(default" in line for line in narrow) and any("runs: ready" in line for line in narrow)
    wide = bouchet("models", COLUMNS="140").out.splitlines()
    assert wide[0].split() == ["MODEL", "GPUS", "CTX", "QUANT", "STATUS", "SIZE", "USED", "NAME", "DESCRIPTION"]
    assert len(wide) == 3
    assert "models" in json.loads(bouchet("models", "--json").out)


def test_cancel_ends_the_only_one_and_asks_which_of_several(bouchet: Bouchet) -> None:
    first = launched(bouchet)
    done = bouchet("--cancel")
    assert (done.status, "is being ended" in done.out) == (0, True)
    assert bouchet.store.get(first).stop_requested_at is not None
    second = launched(bouchet, QWEN, "--name", "second")
    assert (bouchet("cancel").status, bouchet.store.get(second).stop_requested_at) == (2, None)
    answer = json.loads(bouchet("cancel", "second", "--json").out)
    assert answer["deployments"][0]["id"] == second
    assert bouchet("cancel", "--all").status == 0


def test_logs_print_the_end_of_the_log_and_follow_it(bouchet: Bouchet, gateway: FakeGateway) -> None:
    identity = launched(bouchet)
    assert bouchet("logs").status == 1
    advance(bouchet.store, identity, *TO_READY)
    gateway.files[LOG] = b"INFO one\n\x1b[31mred\x1b[0m [bold]two[/bold]\n"
    assert bouchet("logs").out == "INFO one\n[31mred[0m [bold]two[/bold]\n"
    gateway.reads.clear()

    def worker() -> None:
        while not gateway.reads:
            time.sleep(0.02)
        gateway.files[LOG] += b"three\n"
        end(bouchet.store, identity)

    thread = threading.Thread(target=worker)
    thread.start()
    done = bouchet("logs", "bouchet-qwen3-32b", "-f", "--json")
    thread.join()
    assert [json.loads(line)["line"] for line in done.out.splitlines()][2] == "three"


def test_a_reader_that_leaves_is_no_error(bouchet: Bouchet, gateway: FakeGateway) -> None:
    advance(bouchet.store, launched(bouchet), *TO_READY)
    gateway.files[LOG] = b"a line of a log\n" * 1000
    program = " ".join(bouchet.program("logs"))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{program} | head -1"],
        env=dict(bouchet.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("a line of a log\n", "", 0)


def test_the_tunnel_is_shown(bouchet: Bouchet, gateway: FakeGateway) -> None:
    done = bouchet("tunnel", "--connect")
    assert (done.status, done.out.startswith("tunnel to login: up")) == (0, True)
    assert gateway.connects == 1
    gateway.ask("p1", "Passcode or option (1-2): ")
    waits = bouchet("--tunnel", "--json")
    assert (waits.status, json.loads(waits.out)["prompt"]["id"]) == (3, "p1")
    assert "Passcode or option (1-2)" in waits.err


def test_env_sets_what_claude_code_needs_in_a_shell(bouchet: Bouchet) -> None:
    advance(bouchet.store, launched(bouchet), *TO_READY)
    done = bouchet("env")
    assert "warning: the window is 40,960 tokens" in done.err
    script = f"{done.out}\nenv"
    old = {"ANTHROPIC_API_KEY": "sk-old", "CLAUDE_CODE_USE_VERTEX": "1", "ANTHROPIC_LOG": "debug"}
    shells = [["sh", "-c", script], ["bash", "-c", script]]
    seen = bouchet("env", **old)
    for shell in shells:
        printed = subprocess.run(
            [*shell[:2], f"{seen.out}\nenv"],
            env={"PATH": "/usr/bin:/bin", **old},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        values = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
        assert not old.keys() & values.keys()
        assert values["ANTHROPIC_BASE_URL"] == bouchet.proxy.url
        assert values["ANTHROPIC_AUTH_TOKEN"] == KEY
        assert values["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "40960"
        assert values["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "8192"
        names = ("MODEL", "DEFAULT_OPUS_MODEL", "DEFAULT_SONNET_MODEL", "DEFAULT_HAIKU_MODEL")
        assert {values[f"ANTHROPIC_{name}"] for name in names} == {"bouchet-qwen3-32b"}
    assert json.loads(bouchet("env", "--json").out)["CLAUDE_CODE_SUBAGENT_MODEL"] == "bouchet-qwen3-32b"
    assert "set -gx ANTHROPIC_MODEL 'bouchet-qwen3-32b';" in bouchet("env", "--shell", "fish").out


def test_env_says_why_there_is_none_yet(bouchet: Bouchet) -> None:
    advance(bouchet.store, launched(bouchet), Phase.SUBMITTING, Phase.QUEUED)
    done = bouchet("env")
    assert (done.status, done.out) == (3, "")
    assert "queued (waits for GPUs)" in done.err


def test_bare_bouchet_becomes_claude_code(bouchet: Bouchet, tmp_path: Path) -> None:
    advance(bouchet.store, launched(bouchet), *TO_READY)
    missing = bouchet.whole(PATH=str(tmp_path))
    assert (missing.status, "@anthropic-ai/claude-code" in missing.err) == (1, True)
    program = tmp_path / "claude"
    program.write_text(
        '#!/bin/sh\necho "$ANTHROPIC_AUTH_TOKEN $ANTHROPIC_API_KEY"\nfor a in "$@"; do echo "$a"; done\n'
        'test ! -r "$2" || cat "$2"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = f"{tmp_path}:{bouchet.environment['PATH']}"
    done = bouchet.whole("--model", QWEN, "--", "-p", "hello  there", PATH=path, ANTHROPIC_API_KEY="sk-old")
    token, flag, place, *rest, block = done.out.splitlines()
    assert done.status == 0
    assert (token, flag, rest) == (f"{KEY} ", "--settings", ["-p", "hello  there"])
    assert place.startswith("/proc/self/fd/"), "an argument would show the key to everybody on this machine"
    env = json.loads(block)["env"]
    assert (env["ANTHROPIC_BASE_URL"], env["ANTHROPIC_AUTH_TOKEN"]) == (bouchet.proxy.url, KEY)
    assert (env["ANTHROPIC_API_KEY"], env["CLAUDE_CODE_USE_BEDROCK"]) == ("", "")
    own = bouchet.whole("--", "--settings", "mine.json", PATH=path)
    assert own.out.splitlines()[1:] == ["--settings", "mine.json"]


def test_a_model_without_tools_gets_a_claude_code_that_can_chat(bouchet: Bouchet, tmp_path: Path) -> None:
    identity = launched(bouchet)
    advance(bouchet.store, identity, *TO_READY)
    smoke = SmokeTest(tools=SmokeCheck(result="failed", message="its call stayed text"))
    bouchet.store.update(
        identity, lambda d: d.with_job(d.jobs[-1].model_copy(update={"smoke": smoke}), datetime.now(UTC))
    )
    program = tmp_path / "claude"
    program.write_text('#!/bin/sh\nshift 2\nfor a in "$@"; do echo "<$a>"; done\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = f"{tmp_path}:{bouchet.environment['PATH']}"
    done = bouchet.whole("--", "-p", "hello", PATH=path)
    assert done.out.splitlines() == ["<--tools>", "<>", "<--strict-mcp-config>", "<-p>", "<hello>"]
    assert "its tools do not work (its call stayed text): it can chat" in done.err
    chosen = bouchet.whole("--", "--tools", "Read", PATH=path)
    assert chosen.out.splitlines() == ["<--tools>", "<Read>"], "the user's own choice stands"
    assert "`claude --tools '' --strict-mcp-config`" in bouchet("env").err


def test_chat_answers_a_question_from_a_pipe(bouchet: Bouchet) -> None:
    advance(bouchet.store, launched(bouchet), *TO_READY)
    done = bouchet("--chat", "--system", "Be short.", stdin="Hi\nyou")
    assert (done.status, done.out) == (0, "Hello there[2J!\n")
    assert bouchet.proxy.requests[0] == {
        "model": "bouchet-qwen3-32b",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi\nyou"}],
        "stream": True,
    }
    assert bouchet.proxy.keys == [f"Bearer {KEY}"]
    bouchet.proxy.thoughts = ["Hm"]
    whole = json.loads(bouchet("chat", "--json", stdin="Hi").out)
    assert whole == {"model": "bouchet-qwen3-32b", "answer": "Hello there\x1b[2J!", "thoughts": "Hm"}
    assert bouchet("chat", stdin="Hi").out == "Hello there[2J!\n"
    bouchet.proxy.status = 529
    busy = bouchet("chat", stdin="Hi")
    assert (busy.status, busy.out, busy.err) == (3, "", "error: it is queued: try again\n")
    nobody = bouchet("chat", stdin="Hi", BOUCHET_PROXY_URL="http://127.0.0.1:1")
    assert nobody.status == 4


def test_the_seeds_spellings_work(bouchet: Bouchet) -> None:
    words = "--launch --model Qwen/Qwen3-32B --gpus 1 --time 06:00:00 --partition gpu_h200 --quant fp8 --max-len 40960"
    done = bouchet(*words.split())
    assert done.status == 0
    [made] = bouchet.store.live()
    assert made.request.model_dump(exclude_none=True, exclude_defaults=True) == {
        "model": QWEN,
        "gpus": 1,
        "time": "06:00:00",
        "partition": "gpu_h200",
        "quant": "fp8",
        "max_len": 40960,
    }
    assert json.loads(bouchet("--status", "--json").out)["deployments"][0]["id"] == made.id
    assert made.id in bouchet("--status").out
    assert bouchet("--models").out == bouchet("models").out
    assert bouchet("--cancel").status == 0


def test_status_says_what_the_cluster_did_not_answer(bouchet: Bouchet) -> None:
    bouchet.store.outage.record("squeue did not end within 20 s", datetime.now(UTC) - timedelta(seconds=90))
    done = bouchet("status")
    assert done.status == 0 and "has not answered for 1m: squeue did not end" in done.out
    assert json.loads(bouchet("status", "--json").out)["cluster_outage"]["detail"].startswith("squeue")
    bouchet.store.outage.clear()
    assert "not answered" not in bouchet("status").out
