"""The usage of one request: its session, and the hash that is stored."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.api_keys import Caller, RateLimiter
from bouchet_proxy.dialects.endpoints import Endpoint
from bouchet_proxy.dialects.tokens import TokenCounts
from bouchet_proxy.routing.table import Route
from bouchet_proxy.usage.request import ActiveRequests, RequestUsage, find_session, session_hash

ROUTE = Route("d1", "tiny", "org/Tiny", 0, "job", 4096, Traits())
SESSION = "0f3c1d52-0d0e-4d58-9a53-0d6a5b1c2d3e"


@pytest.mark.parametrize(
    ("headers", "metadata"),
    [
        ({"x-claude-code-session-id": SESSION}, None),
        ({"session_id": SESSION}, {"user_id": "x"}),
        ({}, {"user_id": f"user_{'a' * 64}_account__session_{SESSION}"}),
        ({}, {"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": SESSION})}),
    ],
)
def test_find_session_in_headers_or_metadata(headers: dict[str, str], metadata: Any) -> None:
    scope = {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    assert find_session(scope, {"metadata": metadata} if metadata else {}) == SESSION


@pytest.mark.parametrize("metadata", [None, 5, [], {}, {"user_id": None}, {"user_id": "a-user"}])
def test_find_session_without_one_returns_an_empty_string(metadata: Any) -> None:
    assert find_session({"headers": []}, {"metadata": metadata}) == ""


@pytest.mark.parametrize(
    ("route", "status", "has_session"), [(ROUTE, 200, True), (ROUTE, 400, False), (ROUTE, 0, False), (None, 404, False)]
)
def test_to_record_has_a_session_only_if_a_model_answered(route: Route | None, status: int, has_session: bool) -> None:
    usage = RequestUsage(Caller("bob"), Endpoint.MESSAGES, ActiveRequests(), session=SESSION, route=route)
    if status:
        usage.finish(status, TokenCounts())
    usage.close()
    assert bool(usage.to_record(0.0, b"secret").session) is has_session


CLIENT_LEFT, STREAM_LEFT = 0, -1


@pytest.mark.parametrize(
    ("route", "status", "tokens", "used"),
    [
        (ROUTE, 200, TokenCounts(300, 50, 20), 320),
        (ROUTE, 200, TokenCounts(0, 900, 20), 20),
        (ROUTE, 200, TokenCounts(), 1000),
        (ROUTE, 400, TokenCounts(), 0),
        (ROUTE, 529, TokenCounts(), 0),
        (ROUTE, 504, TokenCounts(), 1000),
        (ROUTE, CLIENT_LEFT, TokenCounts(), 1000),
        (ROUTE, STREAM_LEFT, TokenCounts(0, 0, 7), 1007),
        (None, CLIENT_LEFT, TokenCounts(), 0),
        (None, 404, TokenCounts(), 0),
    ],
)
def test_close_settles_the_estimate(route: Route | None, status: int, tokens: TokenCounts, used: int) -> None:
    limiter = RateLimiter(None, 10_000, time.monotonic())
    usage = RequestUsage(Caller("bob", limiter), Endpoint.CHAT, ActiveRequests(), route=route)
    usage.admit(4000)
    if status == STREAM_LEFT:
        usage.start_stream(200, lambda: tokens)
    elif status:
        usage.finish(status, tokens)
    usage.close()
    limiter.admit(0, time.monotonic())
    remaining = dict(limiter.headers(False, time.monotonic(), 0.0))[b"x-ratelimit-remaining-tokens"]
    assert 10_000 - used <= int(remaining) <= 10_000 - used + 20


def test_session_hash_depends_on_the_secret() -> None:
    hashed = session_hash(SESSION, b"secret")
    assert len(hashed) == 12 and hashed == session_hash(SESSION, b"secret")
    assert hashed != session_hash(SESSION, b"another secret")
    assert session_hash("", b"secret") == ""
