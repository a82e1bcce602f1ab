"""`bouchet status` and `bouchet logs`."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any

import pytest
from bouchet_core.deployments import Ending, Orphan

from tests.cli.harness import (
    ALIAS,
    KEY,
    LOG,
    QWEN,
    TO_QUEUED,
    TO_READY,
    Bouchet,
    FakeGateway,
    advance,
    end,
    one_line_error,
)

IDLE = "idle for 45 min; `bouchet launch Qwen/Qwen3-32B` starts it again in about 90 s (warm)"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record method and path of each HTTP request that a command in this process sends."""
    seen: list[tuple[str, str]] = []

    class RecordingConnection(HTTPConnection):
        def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
            seen.append((method, url))
            super().request(method, url, *arguments, **options)

    monkeypatch.setattr("bouchet_cli.client.http.HTTPConnection", RecordingConnection)
    return seen


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_status_sends_one_request(bouchet: Bouchet, requests: list[tuple[str, str]], options: tuple[str, ...]) -> None:
    bouchet.launch_ready()
    end(bouchet.store, bouchet.launch_ready(QWEN, "--name", "failed"))
    requests.clear()
    assert bouchet("status", *options).status == 0
    assert requests == [("GET", "/v1/status")]


def test_status_of_a_live_deployment_sends_one_request(bouchet: Bouchet, requests: list[tuple[str, str]]) -> None:
    bouchet.launch_ready()
    requests.clear()
    assert bouchet("status", ALIAS).status == 0
    assert requests == [("GET", "/v1/status")]


def test_status_json_has_the_keys_of_the_api(bouchet: Bouchet) -> None:
    live = bouchet.launch_ready()
    failed = bouchet.launch_ready(QWEN, "--name", "failed")
    end(bouchet.store, failed)
    document = json.loads(bouchet("--status", "--json").out)
    assert [one["id"] for one in document["deployments"]] == [live]
    assert [one["id"] for one in document["ended"]] == [failed]
    assert (document["tunnel"]["state"], document["tunnel_error"], document["cluster_outage"]) == ("up", None, None)


def test_status_shows_job_tunnel_and_no_key(bouchet: Bouchet) -> None:
    queued = bouchet.launch()
    advance(bouchet.store, queued, *TO_QUEUED)
    ready = bouchet.launch("Qwen/Qwen3-Coder-Next-FP8", "--name", "n" * 63)
    advance(bouchet.store, ready, *TO_READY, window=262144)
    done = bouchet("status", COLUMNS="80")
    assert done.status == 0
    assert max(len(line) for line in done.out.splitlines()) <= 80
    shown = " ".join(done.out.split())
    for text in (
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
        assert text in shown
    assert "tunnel to login: up" in shown
    assert "\x1b" not in done.out and KEY not in done.out + done.err


def test_status_with_nothing_running_shows_what_has_failed(bouchet: Bouchet) -> None:
    assert bouchet("status").status == 0
    end(bouchet.store, bouchet.launch())
    assert "out of memory" in bouchet("status").out
    assert "failed" in bouchet("status", "--all").out


def test_status_says_how_many_more_have_ended(bouchet: Bouchet) -> None:
    for number in range(5):
        end(bouchet.store, bouchet.launch(QWEN, "--name", f"mine-{number}"))
    shown = bouchet("status").out
    assert shown.count("failed") == 3 and "and 2 more that ended: `bouchet status --all`" in shown
    listed = bouchet("status", "--all").out
    assert listed.count("failed") == 5 and "more that ended" not in listed


def test_status_all_json_includes_ended_deployments(bouchet: Bouchet) -> None:
    identity = bouchet.launch()
    end(bouchet.store, identity, Ending.CANCELLED)
    assert [one["id"] for one in json.loads(bouchet("status", "--all", "--json").out)["deployments"]] == [identity]


def test_status_lists_unexpected_ends_and_not_cancelled_deployments(bouchet: Bouchet) -> None:
    end(bouchet.store, bouchet.launch_ready(), Ending.IDLE, IDLE)
    bouchet.launch_ready(QWEN, "--name", "bouchet-other")
    end(bouchet.store, bouchet.launch_ready(QWEN, "--name", "bouchet-third"), Ending.CANCELLED)
    shown = " ".join(bouchet("status").out.split())
    assert f"{ALIAS} ended" in shown and IDLE in shown
    assert "bouchet-third" not in shown


def test_status_drops_an_ended_deployment_whose_name_is_used_again(bouchet: Bouchet) -> None:
    end(bouchet.store, bouchet.launch_ready(), Ending.IDLE, IDLE)
    bouchet.launch_ready()
    assert "idle for 45 min" not in bouchet("status").out


def test_status_without_gateway_shows_its_error(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.tunnel = {}
    document = json.loads(bouchet("status", "--json").out)
    assert document["tunnel"] is None and document["tunnel_error"]
    done = bouchet("status")
    assert done.status == 0 and document["tunnel_error"] in done.out


@pytest.mark.parametrize("name", [(), (ALIAS,)])
def test_status_during_outage_shows_its_message(bouchet: Bouchet, name: tuple[str, ...]) -> None:
    bouchet.launch_ready()
    message = "squeue did not end within 20 s"
    bouchet.store.outage.record(message, datetime.now(UTC) - timedelta(seconds=90))
    done = bouchet("status", *name)
    assert done.status == 0 and "for 1m" in done.out and message in done.out
    bouchet.store.outage.clear()
    assert message not in bouchet("status", *name).out


@pytest.mark.parametrize(("owner", "command"), [("this", "`bouchet orphans`"), ("another", "`bouchet orphans --all`")])
def test_status_names_the_command_for_orphans(bouchet: Bouchet, owner: str, command: str) -> None:
    orphan = {"slurm_id": 9, "name": "bouchet-zz-1", "state": "RUNNING", "owner": owner, "note": ""}
    bouchet.store.orphans.keep([Orphan.model_validate(orphan)])
    assert command in bouchet("status").out


def test_status_of_one_deployment_by_id_or_name(bouchet: Bouchet) -> None:
    identity = bouchet.launch()
    advance(bouchet.store, identity, *TO_QUEUED)
    done = bouchet("status", ALIAS)
    assert done.status == 0 and "waits for GPUs" in done.out and identity in done.out
    assert json.loads(bouchet("status", identity, "--json").out)["id"] == identity


def test_status_by_name_finds_the_newest_ended_deployment(bouchet: Bouchet) -> None:
    end(bouchet.store, bouchet.launch_ready(), Ending.FAILED, "out of memory")
    end(bouchet.store, bouchet.launch_ready(), Ending.IDLE, IDLE)
    shown = bouchet("status", ALIAS).out
    assert shown.startswith(f"{ALIAS}  ended") and "idle for 45 min" in shown
    live = bouchet.launch_ready()
    assert json.loads(bouchet("status", ALIAS, "--json").out)["id"] == live
    assert bouchet("status", "nosuch").status == 3


def test_colours_appear_only_on_a_terminal_that_shows_them(bouchet: Bouchet) -> None:
    bouchet.launch_ready()
    for extra, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with bouchet.terminal("status", **extra) as tty:
            status, shown = tty.rest()
        assert status == 0 and ALIAS in shown
        assert ("\x1b[" in shown) == coloured


def test_logs_print_the_end_of_the_log_without_control_characters(bouchet: Bouchet, gateway: FakeGateway) -> None:
    identity = bouchet.launch()
    advance(bouchet.store, identity, *TO_QUEUED)
    waiting = bouchet("logs")
    assert one_line_error(waiting, 1) and "is still waiting" in waiting.err and LOG not in waiting.err
    advance(bouchet.store, identity, *TO_READY[2:])
    gateway.files[LOG] = b"INFO one\n\x1b[31mred\x1b[0m [bold]two[/bold]\n"
    assert bouchet("logs").out == "INFO one\n[31mred[0m [bold]two[/bold]\n"


@pytest.mark.slow
def test_logs_print_all_or_say_that_it_is_the_end(bouchet: Bouchet, gateway: FakeGateway) -> None:
    bouchet.launch_ready()
    gateway.files[LOG] = b"the first line\n" + b"a line of a log\n" * 5000
    end_only = bouchet("logs", ALIAS)
    assert "first" not in end_only.out and f"`bouchet logs {ALIAS} --all`" in end_only.err
    whole = bouchet("logs", ALIAS, "--all")
    assert (whole.out.splitlines()[0], whole.out.count("\n"), whole.err) == ("the first line", 5001, "")


def test_logs_follow_until_the_deployment_ends(bouchet: Bouchet, gateway: FakeGateway) -> None:
    identity = bouchet.launch_ready()
    gateway.files[LOG] = b"one\ntwo\n"

    def finish() -> None:
        gateway.files[LOG] += b"three\n"
        end(bouchet.store, identity)

    done = bouchet.reacting({"two": finish}, "logs", ALIAS, "-f", "--json")
    assert [json.loads(line)["line"] for line in done.out.splitlines()] == ["one", "two", "three"]


def test_logs_end_quietly_when_the_reader_leaves(bouchet: Bouchet, gateway: FakeGateway) -> None:
    bouchet.launch_ready()
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


def test_logs_without_deployments_are_not_ready(bouchet: Bouchet) -> None:
    assert bouchet("logs").status == 3
