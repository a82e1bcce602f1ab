"""API keys in the store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.errors import KeyNameTakenError, UnknownKeyError
from bouchet_core.keys import ApiKey, sha256_of
from bouchet_core.store import Store

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def key(name: str, secret: str = "sk-bouchet-x") -> ApiKey:
    return ApiKey(name=name, sha256=sha256_of(secret), ending=secret[-4:], created_at=NOW)


def test_keys_can_be_added_listed_and_revoked(store: Store) -> None:
    store.api_keys.add(key("bob"))
    store.api_keys.add(key("alice").model_copy(update={"created_at": NOW + timedelta(seconds=1)}))
    with pytest.raises(KeyNameTakenError, match="revoke bob"):
        store.api_keys.add(key("bob", "another"))
    assert [k.name for k in store.api_keys.all()] == ["bob", "alice"]
    assert store.api_keys.revoke("bob") == key("bob")
    with pytest.raises(UnknownKeyError, match="keys list"):
        store.api_keys.revoke("bob")
    assert [k.name for k in store.api_keys.all()] == ["alice"]


def test_wait_for_change_returns_at_a_change(store: Store) -> None:
    before = store.api_keys.last_change()
    store.api_keys.add(key("bob"))
    store.api_keys.wait_for_change(before, wait_s=4.0)
    assert store.api_keys.last_change() != before
