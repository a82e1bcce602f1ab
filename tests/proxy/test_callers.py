"""Keys and limits, without a clock or a server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from bouchet_core.keys import OWNER, ApiKey, new_secret, sha256_of
from bouchet_proxy.auth.api_keys import KeyTable
from bouchet_proxy.auth.rate_limit import Meter, TooMuch

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SECRET = new_secret()


def key(**fields: object) -> ApiKey:
    made = {"name": "bob", "sha256": sha256_of(SECRET), "ending": SECRET[-4:], "created_at": NOW}
    return ApiKey.model_validate({**made, **fields})


def found(table: KeyTable, given: str, now: float = 0.0) -> str | None:
    caller = table.find(given.encode(), now)
    return caller.name if caller else None


def test_the_owners_key_and_others() -> None:
    table = KeyTable(b"mine").renewed([key()], lambda: 0.0)
    assert found(table, "mine") == OWNER
    assert found(table, SECRET) == "bob"
    for wrong in ("", "min", "mine ", SECRET + "x", SECRET[:-1], sha256_of(SECRET)):
        assert found(table, wrong) is None
    assert found(table.renewed([], lambda: 0.0), SECRET) is None


def test_an_expired_key_opens_nothing() -> None:
    table = KeyTable(b"mine").renewed([key(expires_at=NOW)], lambda: 0.0)
    assert found(table, SECRET, NOW.timestamp() - 1) == "bob"
    assert found(table, SECRET, NOW.timestamp()) is None


def test_a_key_that_stays_the_same_keeps_what_it_has_used() -> None:
    table = KeyTable(b"mine").renewed([key(requests_per_minute=1)], lambda: 0.0)
    caller = table.find(SECRET.encode(), 0.0)
    assert caller is not None and caller.meter is not None
    assert caller.meter.admit(0, 0.0) is None
    same = table.renewed([key(requests_per_minute=1)], lambda: 0.0).find(SECRET.encode(), 0.0)
    assert same is caller
    raised = table.renewed([key(requests_per_minute=2)], lambda: 0.0).find(SECRET.encode(), 0.0)
    assert raised is not None and raised.meter is not None
    assert raised.meter.admit(0, 0.0) is None


def test_neither_key_nor_secret_is_shown() -> None:
    table = KeyTable(b"mine-alone").renewed([key()], lambda: 0.0)
    assert "mine-alone" not in repr(table)
    assert SECRET not in repr(table)


def test_requests_flow_in_evenly() -> None:
    meter = Meter(6, None, 0.0)
    assert [meter.admit(0, 0.0) for _ in range(6)] == [None] * 6
    assert meter.admit(0, 0.0) == TooMuch("requests", 6, 10)
    assert meter.admit(0, 9.0) == TooMuch("requests", 6, 1)
    assert meter.admit(0, 10.0) is None
    assert meter.admit(0, 10.0) is not None


def test_never_more_than_a_minutes_worth_is_saved_up() -> None:
    meter = Meter(2, None, 0.0)
    answers = [meter.admit(0, 3600.0) for _ in range(3)]
    assert answers[:2] == [None, None] and answers[2] is not None


def test_tokens_are_charged_as_guessed_and_settled_as_used() -> None:
    meter = Meter(None, 600, 0.0)
    assert meter.admit(5000, 0.0) is None, "a request larger than the limit must be possible at times"
    assert meter.admit(1, 0.0) == TooMuch("tokens", 600, 441)
    meter.settle(5000, 300)
    assert meter.admit(1, 0.0) is None


def test_a_refused_request_takes_nothing() -> None:
    meter = Meter(5, 100, 0.0)
    assert meter.admit(100, 0.0) is None
    assert meter.admit(1, 0.0) is not None
    meter.settle(100, 0)
    assert [meter.admit(0, 0.0) for _ in range(4)] == [None] * 4
    assert meter.admit(0, 0.0) == TooMuch("requests", 5, 12)


@pytest.mark.parametrize(
    ("anthropic", "left", "limit"),
    [
        (True, b"anthropic-ratelimit-requests-remaining", b"anthropic-ratelimit-tokens-limit"),
        (False, b"x-ratelimit-remaining-requests", b"x-ratelimit-limit-tokens"),
    ],
)
def test_headers_say_what_is_left(anthropic: bool, left: bytes, limit: bytes) -> None:
    meter = Meter(10, 100, 0.0)
    meter.admit(300, 0.0)
    headers = dict(meter.headers(anthropic, 0.0, NOW.timestamp()))
    assert (headers[left], headers[limit]) == (b"9", b"100")
    reset = b"2026-11-22T12:03:00Z" if anthropic else b"180s"
    assert reset in headers.values(), "three minutes until 200 tokens of debt and 100 more have flowed in"
    remaining = next(value for name, value in headers.items() if b"remaining" in name and b"tokens" in name)
    assert remaining == b"0"
