"""The smoke test against a small real server: what is wrong is named, and what was not seen is not judged."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.provenance import SmokeCheck, SmokeTest
from bouchet_worker.reconcile import smoke_test
from bouchet_worker.reconcile.smoke_test import ExpectedModel, ServerGoneError, run_smoke_test

from tests.fakes.slurm_gateway import serve_http
from tests.fakes.vllm.worker_server import PROMPT_TOKENS, WorkerVLLM, worker_vllm

EXPECTED = ExpectedModel("bouchet-m", 4096, "off", "hermes", "qwen3")


@contextmanager
def serving(**deviations: object) -> Iterator[tuple[httpx.Client, type[WorkerVLLM]]]:
    server = worker_vllm(**deviations)
    with serve_http(server) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=NO_TLS) as http:
        yield http, server


def result_with(expected: ExpectedModel = EXPECTED, **deviations: object) -> SmokeTest:
    with serving(**deviations) as (http, _):
        return run_smoke_test(http, expected, lambda: True)


def results(smoke: SmokeTest) -> dict[str, str]:
    """Return the results by the names of the checks."""
    return {name: check.result for name, check in smoke if isinstance(check, SmokeCheck)}


def test_smoke_test_of_expected_model_passes_every_check() -> None:
    smoke = result_with()
    assert results(smoke) == dict.fromkeys(("chat", "stream", "tools", "count", "window", "thinking"), "ok")
    assert smoke.without_tools == ""


def test_smoke_test_requests_are_small_and_switch_nothing() -> None:
    with serving(call="forced") as (http, server):
        run_smoke_test(http, EXPECTED, lambda: True)
    bodies = [body for path, body in server.received if path != "/tokenize"]
    assert len(bodies) == 4 and all(body["max_tokens"] <= 256 for body in bodies)
    assert not any("chat_template_kwargs" in body or "thinking" in body for body in bodies)


def test_tool_call_that_fails_once_keeps_tools() -> None:
    smoke = result_with(call="unsteady")
    assert smoke.tools.result == "ok" and smoke.without_tools == ""


@pytest.mark.parametrize(
    ("deviations", "name", "part"),
    [
        ({"chat_status": 400}, "chat", "400: no chat template is defined"),
        ({"stream": "early"}, "stream", "after 2 events without message_stop"),
        ({"stream": "error"}, "stream", "EngineDeadError"),
        ({"call": "text"}, "tools", "parser 'hermes' does not match this model: <tool_call>"),
        ({"call": "prose"}, "tools", "even a forced tool call"),
        ({"call": "broken"}, "tools", "the tool call is report_status("),
        ({"counted": 4 * PROMPT_TOKENS}, "count", "84 tokens for a prompt of 21 tokens"),
        ({"window": 2048}, "window", "2048 tokens instead of 4096"),
        ({"thoughts": "text"}, "thinking", "thinks by default"),
        ({"thoughts": "reasoning"}, "thinking", "thinks by default"),
    ],
)
def test_smoke_test_fails_exactly_the_check_that_is_wrong(deviations: dict[str, Any], name: str, part: str) -> None:
    smoke = result_with(**deviations)
    assert [check for check, result in results(smoke).items() if result == "failed"] == [name]
    assert part in getattr(smoke, name).message


def test_model_without_voluntary_call_passes_with_forced_call() -> None:
    smoke = result_with(call="forced")
    assert smoke.tools.result == "ok" and "forced" in smoke.tools.message


@pytest.mark.parametrize("call", ["long", "refused"])
def test_tool_call_that_cannot_be_tried_keeps_tools(call: str) -> None:
    smoke = result_with(call=call)
    assert smoke.tools.result == "not_tried" and smoke.tools.message and smoke.without_tools == ""


def test_smoke_test_skips_what_the_catalog_does_not_expect() -> None:
    expected = dataclasses.replace(EXPECTED, tool_parser=None, thinking="none")
    smoke = result_with(expected, call="prose", thoughts="text")
    assert (smoke.tools.result, smoke.thinking.result) == ("not_tried", "not_tried")


@pytest.mark.parametrize(("thoughts", "result"), [("reasoning", "ok"), ("text", "failed"), ("", "not_tried")])
def test_thinking_model_must_return_reasoning_outside_the_text(thoughts: str, result: str) -> None:
    assert result_with(dataclasses.replace(EXPECTED, thinking="always"), thoughts=thoughts).thinking.result == result


def test_slow_answer_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_test, "REQUEST_TIMEOUT_S", 0.3)
    smoke = result_with(stream="slow")
    assert smoke.stream.result == "not_tried" and "no answer within" in smoke.stream.message


def test_smoke_test_without_time_tries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_test, "TEST_TIMEOUT_S", 0.0)
    assert set(results(result_with()).values()) == {"not_tried"}


@pytest.fixture
def unused_url() -> Iterator[str]:
    """Return a URL that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_lost_server_raises_server_gone(unused_url: str) -> None:
    with httpx.Client(base_url=unused_url, verify=NO_TLS) as http, pytest.raises(ServerGoneError):
        run_smoke_test(http, EXPECTED, lambda: False)


def test_lost_connection_to_healthy_server_fails_the_check(unused_url: str) -> None:
    with httpx.Client(base_url=unused_url, verify=NO_TLS) as http:
        assert run_smoke_test(http, EXPECTED, lambda: True).chat.result == "failed"
