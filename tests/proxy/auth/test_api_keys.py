"""The table of API keys, without a clock or a server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from bouchet_core.keys import OWNER, ApiKey, new_secret, sha256_of
from bouchet_proxy.api_keys import Caller, KeyTable, RateLimitExceededError, cache_salt

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
