"""Retries: what the SDKs ask again, and that an error of this proxy is of that kind where it may help."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest
from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.errors import ProxyError, status_for
from bouchet_proxy.streams.error_events import FINAL_CODES, error_events
from bouchet_proxy.streams.sse import parse_stream

from tests.clients.failing_server import ANSWER, serve_fault
from tests.proxy.stream_checker import check_stream
from tests.proxy.test_errors import lookup_errors, own_errors, upstream_errors

# of docs/clients.md: what a client does whose retries were not configured
RETRIED, SHOWN = 2, 1
STATUSES = [
    *((f"status:{status}", RETRIED) for status in (408, 409, 429, 500, 502, 503, 504, 529)),
    *((f"status:{status}", SHOWN) for status in (400, 401, 403, 404, 413, 415, 422)),
    ("status:429:retry-after=1", RETRIED),
    ("status:503:x-should-retry=false", SHOWN),
    ("status:400:x-should-retry=true", RETRIED),
]
STREAMS = ["first:error:overloaded_error", "begun:error:api_error", "text:error:overloaded_error", "text:cut"]
# as the clients of the table have it: what ends the turn of Codex, and is never asked again
NEVER_ASKED_AGAIN = {"server_is_overloaded", "context_length_exceeded", "insufficient_quota", "invalid_prompt"}
HI: list[Any] = [{"role": "user", "content": "hi"}]
ALL_ERRORS = [*own_errors(), *lookup_errors(), *upstream_errors()]


def ask_anthropic(url: str, *, stream: bool = False) -> str:
    with anthropic.Anthropic(base_url=url, api_key="k") as client:
        if not stream:
            message = client.messages.create(model="m", max_tokens=9, messages=HI)
            return "".join(block.text for block in message.content if block.type == "text")
        with client.messages.stream(model="m", max_tokens=9, messages=HI) as answer:
            return answer.get_final_text()


def ask_openai(url: str, *, stream: bool = False) -> str:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k") as client:
        if not stream:
            return client.chat.completions.create(model="m", messages=HI).choices[0].message.content or ""
        chunks = client.chat.completions.create(model="m", messages=HI, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


ASK = {"anthropic": ask_anthropic, "openai": ask_openai}


@pytest.mark.slow
@pytest.mark.parametrize("sdk", ASK)
@pytest.mark.parametrize(("fault", "asked"), STATUSES)
def test_sdk_asks_again_after_a_status(sdk: str, fault: str, asked: int) -> None:
    with serve_fault(fault) as server:
        if asked == RETRIED:
            assert ASK[sdk](server.url) == ANSWER
        else:
            with pytest.raises((anthropic.APIStatusError, openai.APIStatusError)):
                ASK[sdk](server.url)
        assert server.asked == asked


@pytest.mark.parametrize("sdk", ASK)
@pytest.mark.parametrize("fault", STREAMS)
def test_sdk_never_asks_again_within_a_stream(sdk: str, fault: str) -> None:
    with serve_fault(fault) as server:
        # some faults come as exceptions of the HTTP library
        with pytest.raises(Exception, match=r"\w"):
            ASK[sdk](server.url, stream=True)
        assert server.asked == SHOWN


@pytest.mark.parametrize("fault", ["first:failed:server_error", "text:failed:invalid_prompt"])
def test_sdk_reads_a_failed_response(fault: str) -> None:
    with serve_fault(fault) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="k") as client:
        events = list(client.responses.create(model="m", input="hi", stream=True))
        last = events[-1]
        assert last.type == "response.failed" and last.response.error is not None
        assert server.asked == SHOWN


def may_help(error: ProxyError) -> bool:
    """Return whether the same request may be answered later."""
    return error.status >= 500 or error.status == 429


@pytest.mark.parametrize("error", ALL_ERRORS, ids=str)
def test_error_that_may_pass_is_of_a_kind_that_clients_retry(error: ProxyError) -> None:
    again = {int(fault.split(":")[1]) for fault, asked in STATUSES if asked == RETRIED and fault.count(":") == 1}
    headers = dict(error.headers)
    for dialect in (Dialect.ANTHROPIC, Dialect.OPENAI):
        if may_help(error):
            assert status_for(dialect, error) in again and b"x-should-retry" not in headers
        else:
            assert status_for(dialect, error) not in again or headers[b"x-should-retry"] == b"false"
    # Codex asks again after 429 only with a time
    assert error.status != 429 or error.retry_after_s


@pytest.mark.parametrize("error", ALL_ERRORS, ids=str)
def test_error_in_a_stream_is_of_a_kind_that_clients_retry(error: ProxyError) -> None:
    data = error_events(Endpoint.RESPONSES, Dialect.OPENAI, error)
    check_stream("/v1/responses", data)
    failed = parse_stream([data])[-1].json()["response"]["error"]
    assert failed["message"] == error.message
    assert (failed["code"] in NEVER_ASKED_AGAIN) is not may_help(error)
    message = parse_stream([error_events(None, Dialect.ANTHROPIC, error)])[-1].json()["error"]
    assert (message["type"] == "overloaded_error") is (error.status >= 500)
    assert FINAL_CODES <= NEVER_ASKED_AGAIN and json.dumps(message)
