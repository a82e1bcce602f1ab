"""The API keys of jobs: derived from the installation's secret, or sealed with it for an adopted job."""

from __future__ import annotations

import pytest
from bouchet_core.keys import installation_id, job_key, sealed_key, serving_key

SECRET, JOB, ADOPTED_JOB = "serving-secret", "bouchet-tiny-1", "bouchet-theirs-1"


def test_sealed_key_opens_with_the_same_secret_only() -> None:
    theirs = serving_key("another secret", ADOPTED_JOB)
    seal = sealed_key(SECRET, ADOPTED_JOB, theirs)
    assert seal is not None and seal != theirs
    assert job_key(SECRET, ADOPTED_JOB, seal) == theirs
    assert job_key("a third secret", ADOPTED_JOB, seal) != theirs


def test_sealed_key_of_the_derived_key_is_none() -> None:
    assert sealed_key(SECRET, ADOPTED_JOB, serving_key(SECRET, ADOPTED_JOB)) is None
    assert job_key(SECRET, JOB, None) == serving_key(SECRET, JOB)


@pytest.mark.parametrize("key", ["", "x" * 64, "ab" * 31, "AB" * 32, "ab" * 33])
def test_sealed_key_of_an_invalid_key_raises(key: str) -> None:
    with pytest.raises(ValueError, match="64 hex"):
        sealed_key(SECRET, ADOPTED_JOB, key)


def test_installation_id_is_derived_from_the_secret() -> None:
    assert installation_id("a") == installation_id("a") != installation_id("b")
