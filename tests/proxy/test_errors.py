"""The proxy's own errors: status, code, and the golden file of their messages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bouchet_core.deployments import Phase
from bouchet_proxy import errors
from bouchet_proxy.admission import TooMuchUnderWayError
from bouchet_proxy.api_keys import RateLimitExceededError
from bouchet_proxy.dialects.endpoints import Dialect, Endpoint, InvalidBodyError, check_body
from bouchet_proxy.errors import ProxyError, status_for
from bouchet_proxy.routing.table import NoModelRunning, NotReady, TableNotLoaded, UnknownModel
from bouchet_proxy.upstream_errors import error_from_upstream

GOLDEN = Path(__file__).parents[1] / "contracts/golden/messages/proxy.txt"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ALIAS, CATALOG = "tiny", ("tiny", "other")


def waiting(phase: Phase, reason: str = "", progress: str = "", minutes: float | None = None) -> NotReady:
    start = None if minutes is None else NOW + timedelta(minutes=minutes)
    return NotReady(ALIAS, phase, reason, progress, start)


def own_errors() -> Iterator[ProxyError]:
    yield errors.invalid_api_key()
    yield errors.owner_only("/metrics")
    yield errors.rate_limit_exceeded("bob", RateLimitExceededError("requests", 1200, 7))
    yield errors.too_much_under_way("bob", TooMuchUnderWayError("requests", 128, shared=False))
    yield errors.too_much_under_way("bob", TooMuchUnderWayError("bytes of request bodies", 1 << 20, shared=True))
    yield errors.encoding_unsupported("br", ["gzip", "deflate"])
    yield errors.too_many_values(200_000)
    yield errors.body_too_large(64 << 20)
    yield errors.nested_too_deeply()
    yield errors.unknown_path("GET", "/v1/files")
    yield errors.unknown_path("POST", "/anthropic/v1/messages")
    yield errors.method_not_allowed("GET", "/v1/messages", "POST")
    yield errors.origin_not_allowed("http://localhost:3000")
    yield errors.tools_unavailable(ALIAS, "tool call returned as plain text: parser 'hermes' does not match this model")
    yield errors.context_overflow(5001, 4096)
    yield errors.unreachable(ALIAS)
    yield errors.stream_interrupted(ALIAS)
    yield errors.timed_out(ALIAS, 900)
    yield errors.internal_error()
    yield errors.still_loading()
    yield errors.table_not_current("the routing table was not renewed for 75 s: Redis does not answer")


def lookup_errors() -> Iterator[ProxyError]:
    yield errors.unavailable(TableNotLoaded(), NOW)
    yield errors.unavailable(NoModelRunning(CATALOG), NOW)
    yield errors.unavailable(NoModelRunning(()), NOW)
    yield errors.unavailable(UnknownModel("other", ("tiny",), CATALOG, True), NOW)
    yield errors.unavailable(UnknownModel("gpt-4", (), CATALOG, False), NOW)
    yield errors.unavailable(UnknownModel("gpt-4", ("tiny",), tuple(f"m{n}" for n in range(25)), False), NOW)
    yield errors.unavailable(waiting(Phase.REQUESTED), NOW)
    yield errors.unavailable(waiting(Phase.SUBMITTING, "retrying sbatch"), NOW)
    yield errors.unavailable(waiting(Phase.QUEUED, "Priority"), NOW)
    yield errors.unavailable(waiting(Phase.QUEUED, "Resources", minutes=12), NOW)
    yield errors.unavailable(waiting(Phase.QUEUED, minutes=180), NOW)
    yield errors.unavailable(waiting(Phase.STARTING, "reason", "loading weights (40 %)"), NOW)
    yield errors.unavailable(waiting(Phase.STARTING), NOW)
    yield errors.unavailable(waiting(Phase.DRAINING, "cancelled"), NOW)


def upstream_errors() -> Iterator[ProxyError]:
    def body(**fields: str) -> bytes:
        return json.dumps({"error": fields}).encode()

    yield error_from_upstream(503, body(kind="tunnel_down", message="the tunnel is down"), ALIAS)
    yield error_from_upstream(404, body(message="not found"), ALIAS, Endpoint.EMBEDDINGS)
    yield error_from_upstream(500, body(message="peer closed connection"), ALIAS)
    yield error_from_upstream(401, b"", ALIAS)
    yield error_from_upstream(429, body(message="queue full"), ALIAS)
    yield error_from_upstream(500, b"", ALIAS)
    yield error_from_upstream(400, body(message="unknown field"), ALIAS)


def body_errors() -> Iterator[str]:
    bodies: list[tuple[Endpoint, object]] = [
        (Endpoint.MESSAGES, []),
        (Endpoint.MESSAGES, {}),
        (Endpoint.MESSAGES, {"messages": [1]}),
        (Endpoint.MESSAGES, {"messages": [], "system": 5}),
        (Endpoint.MESSAGES, {"messages": [], "thread": {"type": "create"}}),
        (Endpoint.MESSAGES, {"messages": [], "tools": [{"name": {}}]}),
        (Endpoint.CHAT, {"messages": [], "max_tokens": -1}),
        (Endpoint.CHAT, {"messages": [], "system": "x"}),
        (Endpoint.CHAT, {"prompt": "x"}),
        (Endpoint.MESSAGES, {"messages": [], "tools": [{"type": "function", "function": {}}]}),
        (Endpoint.CHAT, {"messages": [], "stop": 5}),
        (Endpoint.RESPONSES, {}),
        (Endpoint.RESPONSES, {"input": "x", "previous_response_id": "resp_1"}),
        (Endpoint.RESPONSES, {"input": "x", "conversation": "conv_1"}),
        (Endpoint.RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    ]
    for endpoint, body in bodies:
        with pytest.raises(InvalidBodyError) as caught:
            check_body(endpoint, body)
        yield str(caught.value)


def test_messages_match_the_golden_file() -> None:
    found = [*own_errors(), *lookup_errors(), *upstream_errors()]
    lines = [f"{error.status} {error.code or '-'}: {error.message}" for error in found]
    text = "\n".join([*lines, *(f"400 -: {message}" for message in body_errors()), ""])
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_every_error_can_be_raised_with_its_message() -> None:
    for error in own_errors():
        with pytest.raises(ProxyError) as caught:
            raise error
        assert str(caught.value) == error.message


@pytest.mark.parametrize("phase", Phase)
def test_not_ready_in_every_phase_has_reason_and_retry_after(phase: Phase) -> None:
    error = errors.not_ready(waiting(phase, "because", minutes=180), NOW)
    assert error.status == 529 and error.retry_after_s
    assert "tiny is" in error.message and "because" in error.message


def test_status_for_openai_has_no_529() -> None:
    assert status_for(Dialect.OPENAI, ProxyError(529, "x")) == 503
    assert status_for(Dialect.ANTHROPIC, ProxyError(529, "x")) == 529
