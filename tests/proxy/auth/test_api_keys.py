"""The table of API keys, without a clock or a server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from bouchet_core.keys import OWNER, ApiKey, new_secret, sha256_of
from bouchet_proxy.api_keys import (
    MAX_CREDENTIALS,
    Caller,
    KeyTable,
    RateLimitExceededError,
    cache_salt,
    credentials,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SECRET = new_secret()


def make_key(**fields: object) -> ApiKey:
    values = {"name": "bob", "sha256": sha256_of(SECRET), "ending": SECRET[-4:], "created_at": NOW}
    return ApiKey.model_validate({**values, **fields})


def make_table(*keys: ApiKey) -> KeyTable:
    return KeyTable(b"mine").with_keys(keys, lambda: 0.0)


def name_of(table: KeyTable, key: str, now: float = 0.0) -> str | None:
    caller = table.find(key.encode(), now)
    return caller.name if caller else None


def test_find_knows_the_owners_key_and_others() -> None:
    table = make_table(make_key())
    assert name_of(table, "mine") == OWNER
    assert name_of(table, SECRET) == "bob"
    for wrong in ("", "min", "mine ", SECRET + "x", SECRET[:-1], sha256_of(SECRET)):
        assert name_of(table, wrong) is None


def test_find_revoked_key_returns_none() -> None:
    assert name_of(make_table(make_key()).with_keys([], lambda: 0.0), SECRET) is None


def test_find_expired_key_returns_none() -> None:
    table = make_table(make_key(expires_at=NOW))
    assert name_of(table, SECRET, NOW.timestamp() - 1) == "bob"
    assert name_of(table, SECRET, NOW.timestamp()) is None


def test_with_keys_unchanged_key_keeps_what_it_has_used() -> None:
    table = make_table(make_key(requests_per_minute=1))
    caller = table.find(SECRET.encode(), 0.0)
    assert caller is not None and caller.limiter is not None
    caller.limiter.admit(0, 0.0)
    unchanged = table.with_keys([make_key(requests_per_minute=1)], lambda: 0.0).find(SECRET.encode(), 0.0)
    assert unchanged is caller
    with pytest.raises(RateLimitExceededError):
        caller.limiter.admit(0, 0.0)
    raised = table.with_keys([make_key(requests_per_minute=2)], lambda: 0.0).find(SECRET.encode(), 0.0)
    assert raised is not None and raised.limiter is not None
    raised.limiter.admit(0, 0.0)


def test_repr_shows_no_key() -> None:
    table = KeyTable(b"mine-alone").with_keys([make_key()], lambda: 0.0)
    assert "mine-alone" not in repr(table)
    assert SECRET not in repr(table)


def test_cache_salt_differs_for_each_key_but_the_owners() -> None:
    table = make_table(make_key())
    owner, bob = table.find(b"mine", 0.0), table.find(SECRET.encode(), 0.0)
    assert owner is not None and bob is not None
    assert cache_salt(owner, "secret") is None
    salt = cache_salt(bob, "secret")
    assert salt is not None and salt.isalnum() and len(salt) <= 128
    assert len({salt, cache_salt(bob, "other"), cache_salt(Caller("eve"), "secret")}) == 3
    assert cache_salt(bob, "secret") == salt


def scope_of(*headers: tuple[str, str]) -> dict[str, object]:
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": "http", "path": "/v1/messages", "headers": pairs}


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer mine")],
        [("authorization", "bearer   mine  ")],
        [("authorization", "Bearer Bearer mine")],
        [("authorization", "Bearer: mine")],
        [("authorization", "Bearer=mine")],
        [("authorization", 'Bearer "mine"')],
        [("authorization", "mine")],
        [("x-api-key", "Bearer mine")],
        [("x-api-key", " 'mine' ")],
        [("x-api-key", "mine\u200b")],
        [("authorization", "Bearer sk-ant-oat01-other, Bearer mine")],
        [("authorization", "Bearer sk-ant-oat01-other"), ("x-api-key", "mine")],
        [("authorization", "Basic dXNlcjpvdGhlcg=="), ("x-api-key", "mine")],
        [("authorization", "Bearer other"), ("authorization", "Bearer mine")],
    ],
)
def test_key_is_found_however_clients_send_it(headers: list[tuple[str, str]]) -> None:
    table = make_table()
    found = [table.find(key, 0.0) for key in credentials(scope_of(*headers))]
    assert [caller.name for caller in found if caller] == [OWNER]


@pytest.mark.parametrize(
    "value",
    ["Basic mine", "Digest mine", "Bearer", "Bearer ,", "Bearer mi ne", "", "bearermine", "Bearer-mine", "Token mine"],
)
def test_no_key_is_found_in_what_has_none(value: str) -> None:
    table = make_table()
    assert not any(table.find(key, 0.0) for key in credentials(scope_of(("authorization", value))))


def test_key_that_begins_with_the_scheme_is_whole() -> None:
    assert credentials(scope_of(("authorization", "Bearer bearer-token-1"))) == [b"bearer-token-1"]
    assert credentials(scope_of(("x-api-key", "a,b"))) == [b"a,b", b"a", b"b"]


def test_keys_of_a_request_are_bounded() -> None:
    assert (
        len(credentials(scope_of(("authorization", ",".join(f"Bearer k{n}" for n in range(500)))))) == MAX_CREDENTIALS
    )
