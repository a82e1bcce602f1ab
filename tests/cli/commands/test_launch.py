"""`bouchet launch` and `bouchet cancel`."""

from __future__ import annotations

import json

import pytest
from bouchet_core.deployments import Phase

from tests.cli.harness import (
    ALIAS,
    QWEN,
    TO_QUEUED,
    TO_READY,
    Bouchet,
    FakeGateway,
    advance,
    change_job,
    end,
    one_line_error,
)

NASTY = ["a'; echo x", "$(id)", "two\nlines", "ünïcode", "٣", "", "a" * 300, "a=b,c"]
OPTIONS = [
    "--name", "--gpus", "--nodes", "--time", "--partition", "--quant", "--kv-cache-dtype", "--max-len", "--account",
    "--qos", "--constraint", "--as", "--idle-timeout", "--model",
]  # fmt: skip


def advance_only(bouchet: Bouchet, *phases: Phase) -> None:
    """Move the only live deployment."""
    advance(bouchet.store, bouchet.store.live()[0].id, *phases)


def test_launch_sends_every_option(bouchet: Bouchet) -> None:
    options = "--gpus 2 --nodes 1 --time 2-00:00:00 --partition gpu_h200 --quant none --max-len 4096 --name mine"
    more = "--account a --qos q --constraint c --as opus,haiku --idle-timeout 30 --notify"
    made = bouchet.store.get(bouchet.launch("--model", QWEN, *options.split(), *more.split()))
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
        "notify": True,
    }


def test_legacy_launch_sends_every_option(bouchet: Bouchet) -> None:
    options = "--gpus 1 --time 06:00:00 --partition gpu_h200 --quant fp8 --max-len 40960"
    assert bouchet("--launch", "--model", QWEN, *options.split()).status == 0
    [made] = bouchet.store.live()
    assert made.request.model_dump(exclude_none=True, exclude_defaults=True) == {
        "model": QWEN,
        "gpus": 1,
        "time": "06:00:00",
        "partition": "gpu_h200",
        "quant": "fp8",
        "max_len": 40960,
    }


def test_launch_without_model_uses_catalog_default_and_does_not_wait_in_a_pipe(bouchet: Bouchet) -> None:
    done = bouchet("launch")
    assert done.status == 0
    [made] = bouchet.store.live()
    assert made.alias == "bouchet-qwen3-coder-next" and made.id in done.out


def test_launch_with_wait_returns_when_ready(bouchet: Bouchet) -> None:
    done = bouchet.reacting(
        {
            "requested (id": lambda: advance_only(bouchet, *TO_QUEUED),
            "waits for GPUs": lambda: advance_only(bouchet, *TO_READY[2:]),
        },
        *("launch", QWEN, "--wait", "--json"),
    )
    assert done.status == 0
    assert json.loads(done.out)["phase"] == "ready"
    assert "starts in 40m" in done.err


def test_launch_shows_each_step_of_the_start_also_those_already_over(bouchet: Bouchet) -> None:
    def become_ready() -> None:
        advance_only(bouchet, *TO_READY)
        change_job(bouchet.store, bouchet.store.live()[0].id, steps=("loading weights", "compiling"))

    done = bouchet.reacting({"requested (id": become_ready}, "launch", QWEN, "--wait")
    assert done.status == 0
    assert done.err.splitlines()[2:] == [f"{ALIAS}: loading weights", f"{ALIAS}: compiling"]


def test_launch_that_ends_reports_the_reason_once(bouchet: Bouchet) -> None:
    reason = "the node ran out of memory; try --gpus 2"
    done = bouchet.reacting(
        {"requested (id": lambda: end(bouchet.store, bouchet.store.live()[0].id, reason=reason)},
        *("launch", QWEN, "--wait"),
    )
    assert (done.status, done.out, done.err.count(reason)) == (1, "", 1)


def test_launch_of_a_taken_name_is_refused(bouchet: Bouchet) -> None:
    first = bouchet.launch()
    done = bouchet("launch", QWEN)
    assert one_line_error(done, 1) and first in done.err and "another name" in done.err


def test_launch_that_fits_nowhere_suggests_options(bouchet: Bouchet) -> None:
    done = bouchet("launch", QWEN, "--gpus", "64", "--no-wait")
    assert one_line_error(done, 1) and "--partition gpu_h200 --gpus 8" in done.err
    assert bouchet.store.live() == []


@pytest.mark.parametrize("option", OPTIONS)
def test_launch_option_with_nasty_value_is_one_line_on_stderr(bouchet: Bouchet, option: str) -> None:
    for value in NASTY:
        arguments = ["launch", f"{option}={value}", "--no-wait"]
        done = bouchet(*arguments) if option == "--model" else bouchet(*arguments, "--model", QWEN)
        if option == "--as" and not value:
            assert done.status == 0, "no tier is a valid list of tiers"
            continue
        if (option, value) in {("--gpus", "٣"), ("--nodes", "٣"), ("--idle-timeout", "٣")}:
            continue  # int() accepts the digits of every script
        assert done.status in (2, 3), (value, done)
        assert one_line_error(done, done.status)
    assert all(not record.request.name for record in bouchet.store.live())


@pytest.mark.slow
def test_launch_on_terminal_asks_the_login_prompt_and_survives_ctrl_c(bouchet: Bouchet, gateway: FakeGateway) -> None:
    gateway.ask("p1", "Option (1-2): ", echo=True)
    with bouchet.terminal("launch", QWEN) as tty:
        tty.until("requested (id ")
        tty.until("Option (1-2): ")
        tty.type("1\n")
        advance_only(bouchet, *TO_QUEUED)
        tty.until("waits for GPUs")
        [live] = bouchet.store.live()
        tty.type("\x03")
        tty.until(f"bouchet cancel {live.id}")
        status, _ = tty.rest()
    assert (status, gateway.answers) == (130, [["1"]])
    assert bouchet.store.get(live.id).stop_requested_at is None


def test_launch_on_narrow_terminal_redraws_one_line(bouchet: Bouchet) -> None:
    name = "a-name-that-fills-half-of-it"
    with bouchet.terminal("launch", QWEN, "--name", name, COLUMNS="40") as tty:
        tty.until("(id ")
        advance_only(bouchet, *TO_QUEUED)
        tty.until(f"{name} queued")
        tty.until("…")
        tty.until(f"{name} queued")
        drawn = tty.seen
        advance_only(bouchet, *TO_READY[2:])
        tty.until("is ready")
        status, _ = tty.rest()
    assert status == 0
    assert "\n" not in drawn.partition("…")[0]


def test_launch_on_dumb_terminal_prints_lines_without_escapes(bouchet: Bouchet) -> None:
    with bouchet.terminal("launch", QWEN, TERM="dumb") as tty:
        tty.until("requested (id ")
        advance_only(bouchet, *TO_QUEUED)
        tty.until("queued")
        advance_only(bouchet, *TO_READY[2:])
        tty.until("is ready")
        status, rest = tty.rest()
    assert status == 0 and "\x1b" not in rest


def test_cancel_without_name_cancels_the_only_deployment(bouchet: Bouchet) -> None:
    identity = bouchet.launch()
    assert bouchet("--cancel").status == 0
    assert bouchet.store.get(identity).stop_requested_at is not None


def test_cancel_without_name_of_several_is_refused(bouchet: Bouchet) -> None:
    bouchet.launch()
    second = bouchet.launch(QWEN, "--name", "second")
    assert one_line_error(bouchet("cancel"), 2)
    assert bouchet.store.get(second).stop_requested_at is None
    answer = json.loads(bouchet("cancel", "second", "--json").out)
    assert [deployment["id"] for deployment in answer["deployments"]] == [second]
    assert bouchet("cancel", "--all").status == 0
    assert all(record.stop_requested_at for record in bouchet.store.live())


@pytest.mark.parametrize("names", [(ALIAS, "nosuch"), ("nosuch", ALIAS)])
def test_cancel_of_several_with_a_wrong_name_cancels_none(bouchet: Bouchet, names: tuple[str, str]) -> None:
    identity = bouchet.launch()
    assert one_line_error(bouchet("cancel", *names), 3)
    assert bouchet.store.get(identity).stop_requested_at is None


def test_cancel_of_several_names_cancels_each_once(bouchet: Bouchet) -> None:
    first, second = bouchet.launch(), bouchet.launch(QWEN, "--name", "second")
    answer = json.loads(bouchet("cancel", ALIAS, "second", first, "--json").out)
    assert [deployment["id"] for deployment in answer["deployments"]] == [first, second]


@pytest.mark.parametrize("arguments", [(), ("nosuch",)])
def test_cancel_of_nothing_is_not_ready(bouchet: Bouchet, arguments: tuple[str, ...]) -> None:
    assert one_line_error(bouchet("cancel", *arguments), 3)


def test_cancel_of_an_ended_deployment_says_so(bouchet: Bouchet) -> None:
    identity = bouchet.launch(QWEN, "--name", "mine")
    end(bouchet.store, identity)
    done = bouchet("cancel", "mine")
    assert done.status == 0 and f"mine ({identity}) has already ended" in done.out
