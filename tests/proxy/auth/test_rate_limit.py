"""Rate limits, without a clock."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from bouchet_proxy.api_keys import RateLimiter, RateLimitExceededError

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def rejection(limiter: RateLimiter, tokens: int, now: float) -> tuple[str, int, int]:
    with pytest.raises(RateLimitExceededError) as caught:
        limiter.admit(tokens, now)
    return caught.value.what, caught.value.per_minute, caught.value.retry_after_s


def test_requests_flow_in_evenly() -> None:
    limiter = RateLimiter(6, None, 0.0)
    for _ in range(6):
        limiter.admit(0, 0.0)
    assert rejection(limiter, 0, 0.0) == ("requests", 6, 10)
    assert rejection(limiter, 0, 9.0) == ("requests", 6, 1)
    limiter.admit(0, 10.0)
    assert rejection(limiter, 0, 10.0) == ("requests", 6, 10)


def test_bucket_holds_one_minutes_worth() -> None:
    limiter = RateLimiter(2, None, 0.0)
    limiter.admit(0, 3600.0)
    limiter.admit(0, 3600.0)
    assert rejection(limiter, 0, 3600.0)[0] == "requests"


def test_tokens_are_charged_as_estimated_and_settled_as_used() -> None:
    limiter = RateLimiter(None, 600, 0.0)
    # a request larger than the limit must be possible at times
    limiter.admit(5000, 0.0)
    assert rejection(limiter, 1, 0.0) == ("tokens", 600, 441)
    limiter.settle(5000, 300)
    limiter.admit(1, 0.0)


def test_rejected_request_is_not_charged() -> None:
    limiter = RateLimiter(5, 100, 0.0)
    limiter.admit(100, 0.0)
    assert rejection(limiter, 1, 0.0)[0] == "tokens"
    limiter.settle(100, 0)
    for _ in range(4):
        limiter.admit(0, 0.0)
    assert rejection(limiter, 0, 0.0) == ("requests", 5, 12)


@pytest.mark.parametrize(
    ("anthropic", "remaining", "limit"),
    [
        (True, b"anthropic-ratelimit-requests-remaining", b"anthropic-ratelimit-tokens-limit"),
        (False, b"x-ratelimit-remaining-requests", b"x-ratelimit-limit-tokens"),
    ],
)
def test_headers_report_what_remains(anthropic: bool, remaining: bytes, limit: bytes) -> None:
    limiter = RateLimiter(10, 100, 0.0)
    limiter.admit(300, 0.0)
    headers = dict(limiter.headers(anthropic, 0.0, NOW.timestamp()))
    assert (headers[remaining], headers[limit]) == (b"9", b"100")
    reset = b"2026-11-22T12:03:00Z" if anthropic else b"180s"
    assert reset in headers.values(), "three minutes until 200 overdrawn tokens and 100 more have flowed in"
    tokens = next(value for name, value in headers.items() if b"remaining" in name and b"tokens" in name)
    assert tokens == b"0"
