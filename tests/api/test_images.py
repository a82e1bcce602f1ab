"""Images over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from bouchet_api.dependencies import AppState
from bouchet_core.batch_jobs import BatchJobState

from .test_deployments import queued

PIN = "cpu-0.32.0"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


async def test_a_build_is_on_record_and_in_the_queue(api: httpx.AsyncClient, state: AppState) -> None:
    answer = await api.post("/v1/images/jobs", json={"pin": PIN, "source": "~/staged"})
    assert answer.status_code == 202
    made = answer.json()
    assert (made["pin"], made["action"], made["state"], made["source"]) == (PIN, "build", "queued", "~/staged")
    assert queued(state.store) == [("bouchet_worker.tasks.image", (made["id"],))]
    assert (await api.get(answer.headers["location"])).json() == made
    assert (await api.get(f"/v1/images/jobs/{PIN}")).json() == made
    assert (await api.get("/v1/images/jobs")).json()["jobs"] == [made]


async def test_one_at_a_time_for_a_pin(api: httpx.AsyncClient, state: AppState) -> None:
    first = (await api.post("/v1/images/jobs", json={"pin": PIN})).json()
    state.store.images.update(first["id"], lambda old: old.changed(NOW, slurm_id=7, state=BatchJobState.RUNNING))
    again = await api.post("/v1/images/jobs", json={"pin": PIN, "action": "verify"})
    assert (again.json()["id"], again.json()["action"]) == (first["id"], "build")
    state.store.images.update(first["id"], lambda old: old.ended(NOW, BatchJobState.DONE, "built in 9 s"))
    assert (await api.post("/v1/images/jobs", json={"pin": PIN, "action": "verify"})).json()["action"] == "verify"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"pin": "cpu"}, 404, PIN),
        ({"pin": "../cpu"}, 422, "pin"),
        ({"pin": PIN, "source": "relative"}, 422, "source"),
        ({"pin": PIN, "source": "/a; rm -rf /"}, 422, "source"),
        ({"pin": PIN, "action": "burn"}, 422, "action"),
        ({"pin": PIN, "rebuid": True}, 422, "did you mean `rebuild`"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(
    api: httpx.AsyncClient, state: AppState, body: dict[str, object], status: int, words: str
) -> None:
    answer = await api.post("/v1/images/jobs", json=body)
    assert answer.status_code == status and words in answer.json()["detail"]
    assert queued(state.store) == []


async def test_a_build_is_asked_to_end_once(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/images/jobs", json={"pin": PIN})).json()
    asked = await api.delete(f"/v1/images/jobs/{PIN}")
    assert asked.status_code == 202 and asked.json()["stop_requested_at"]
    assert ("bouchet_worker.tasks.cancel_image", (made["id"],)) in queued(state.store)
    state.store.images.update(made["id"], lambda old: old.ended(NOW, BatchJobState.CANCELLED, "cancelled as asked"))
    assert (await api.delete(f"/v1/images/jobs/{made['id']}")).status_code == 200
    assert (await api.get(f"/v1/images/jobs/{PIN}")).status_code == 404


async def test_its_changes_are_a_stream(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/images/jobs", json={"pin": PIN})).json()["id"]
    change = state.store.images.update
    change(made, lambda old: old.changed(NOW, state=BatchJobState.RUNNING, stage="packages", done=3, of=140))
    change(made, lambda old: old.ended(NOW, BatchJobState.DONE, "built in 9 s"))
    text = (await api.get(f"/v1/images/jobs/{made}/events")).text
    assert text.count("data:") == 3 and '"of":140' in text and "built in 9 s" in text
