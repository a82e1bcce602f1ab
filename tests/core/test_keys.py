"""Keys of people and of jobs: random, expiring, derived alike on both sides, sealed in records."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.keys import (
    KEY_PREFIX,
    ApiKey,
    installation_id,
    job_key,
    new_secret,
    sealed_key,
    serving_key,
    sha256_of,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def test_new_secret_is_long_random_and_prefixed() -> None:
    made = {new_secret() for _ in range(50)}
    assert len(made) == 50
    assert all(secret.startswith(KEY_PREFIX) and len(secret) >= len(KEY_PREFIX) + 43 for secret in made)


def test_opens_at_is_false_from_the_expiry_on() -> None:
    key = ApiKey(name="bob", sha256=sha256_of("x"), ending="x", created_at=NOW)
    timed = key.model_copy(update={"expires_at": NOW})
    assert timed.opens_at(NOW - timedelta(seconds=1))
    assert not timed.opens_at(NOW)
    assert key.opens_at(NOW)


def test_serving_key_differs_by_job_and_secret() -> None:
    keys = {serving_key("s", "job-1"), serving_key("s", "job-2"), serving_key("t", "job-1")}
    assert len(keys) == 3
    assert serving_key("s", "job-1") in keys
    assert installation_id("s") != installation_id("t")


def test_sealed_key_is_unsealed_with_the_same_secret_only() -> None:
    other = serving_key("other installation", "job-1")
    sealed = sealed_key("s", "job-1", other)
    assert sealed is not None and other not in sealed
    assert job_key("s", "job-1", sealed) == other
    assert job_key("t", "job-1", sealed) != other
    assert sealed_key("s", "job-1", serving_key("s", "job-1")) is None
    assert job_key("s", "job-1", None) == serving_key("s", "job-1")


@pytest.mark.parametrize("key", ["", "short", "G" * 64, "a" * 65])
def test_sealed_key_refuses_other_keys(key: str) -> None:
    with pytest.raises(ValueError):
        sealed_key("s", "job-1", key)
