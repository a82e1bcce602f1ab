"""A deployment taken over from another installation is asked with its own key, which its record holds sealed."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from bouchet_core.deployments import Deployment, Phase
from bouchet_core.keys import installation_id, job_key, sealed_key, serving_key

from tests.proxy.contract import COUNT, ask, until
from tests.proxy.running import JOB, KEY, SERVING_SECRET, Ground, deployment, front_in_thread

ADOPTED = "bouchet-theirs-1"


def adopted(theirs: str) -> Deployment:
    """A ready deployment whose job another installation named, behind the fake model's slot."""
    record = deployment()
    job = record.jobs[0].model_copy(update={"name": ADOPTED, "sealed_key": sealed_key(SERVING_SECRET, ADOPTED, theirs)})
    return record.model_copy(update={"jobs": (job,)})


def test_the_sealed_key_opens_the_job(ground: Ground) -> None:
    theirs = serving_key(SERVING_SECRET, JOB)  # the one that the fake model asks for
    with front_in_thread(ground) as door:
        record = ground.store.create(adopted(theirs))

        def status() -> int:
            return httpx.post(door.url + COUNT, json=ask("x"), headers={"x-api-key": KEY}, timeout=30).status_code

        until(lambda: status() == 200)
        ground.store.update(record.id, lambda d: d.moved(Phase.ENDED, datetime.now(UTC)))


def test_a_seal_is_worth_nothing_without_the_secret() -> None:
    theirs = serving_key("another secret", ADOPTED)
    seal = sealed_key(SERVING_SECRET, ADOPTED, theirs)
    assert seal is not None and seal != theirs
    assert job_key(SERVING_SECRET, ADOPTED, seal) == theirs
    assert job_key("a third secret", ADOPTED, seal) != theirs
    assert sealed_key(SERVING_SECRET, ADOPTED, serving_key(SERVING_SECRET, ADOPTED)) is None
    assert job_key(SERVING_SECRET, JOB, None) == serving_key(SERVING_SECRET, JOB)


@pytest.mark.parametrize("key", ["", "x" * 64, "ab" * 31, "AB" * 32, "ab" * 33])
def test_what_is_no_key_of_ours_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="64 hex"):
        sealed_key(SERVING_SECRET, ADOPTED, key)


def test_an_installation_is_its_secret() -> None:
    assert installation_id("a") == installation_id("a") != installation_id("b")
