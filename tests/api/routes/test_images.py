"""/v1/images."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from bouchet_api.dependencies import AppState
from bouchet_core.batch_jobs import BatchJobState

from tests.fakes.running_api import queued_tasks

PIN = "cpu-0.32.0"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


async def test_new_build_is_recorded_and_enqueued(api: httpx.AsyncClient, state: AppState) -> None:
    answer = await api.post("/v1/images/jobs", json={"pin": PIN, "source": "~/staged"})
    assert answer.status_code == 202
    made = answer.json()
    assert (made["pin"], made["action"], made["state"], made["source"]) == (PIN, "build", "queued", "~/staged")
    assert queued_tasks(state.store) == [("image", made["id"])]
    assert (await api.get(answer.headers["location"])).json() == made
    assert (await api.get(f"/v1/images/jobs/{PIN}")).json() == made
    assert (await api.get("/v1/images/jobs")).json()["jobs"] == [made]


async def test_second_request_returns_the_live_job_of_the_pin(api: httpx.AsyncClient, state: AppState) -> None:
    first = (await api.post("/v1/images/jobs", json={"pin": PIN})).json()
    state.store.images.update(first["id"], lambda old: old.changed(NOW, slurm_id=7, state=BatchJobState.RUNNING))
    again = await api.post("/v1/images/jobs", json={"pin": PIN, "action": "verify"})
    assert (again.json()["id"], again.json()["action"]) == (first["id"], "build")
    state.store.images.update(first["id"], lambda old: old.ended(NOW, BatchJobState.DONE, "built in 9 s"))
    assert (await api.post("/v1/images/jobs", json={"pin": PIN, "action": "verify"})).json()["action"] == "verify"


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"pin": "cpu"}, 404, PIN),
        ({"pin": "../cpu"}, 422, "pin"),
        ({"pin": "cpu-arm64-0.32.0"}, 422, "is for aarch64, and"),
        ({"pin": PIN, "source": "relative"}, 422, "source"),
        ({"pin": PIN, "source": "/a; rm -rf /"}, 422, "source"),
        ({"pin": PIN, "action": "burn"}, 422, "action"),
        ({"pin": PIN, "rebuid": True}, 422, "did you mean `rebuild`"),
    ],
)
async def test_invalid_image_request_is_refused(
    api: httpx.AsyncClient, state: AppState, body: dict[str, object], status: int, expected: str
) -> None:
    answer = await api.post("/v1/images/jobs", json=body)
    assert answer.status_code == status and expected in answer.json()["detail"]
    assert queued_tasks(state.store) == []


async def test_cancel_is_enqueued_and_repeatable(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/images/jobs", json={"pin": PIN})).json()
    cancelled = await api.delete(f"/v1/images/jobs/{PIN}")
    assert cancelled.status_code == 202 and cancelled.json()["stop_requested_at"]
    assert ("cancel_image", made["id"]) in queued_tasks(state.store)
    state.store.images.update(made["id"], lambda old: old.ended(NOW, BatchJobState.CANCELLED, "cancelled"))
    assert (await api.delete(f"/v1/images/jobs/{made['id']}")).status_code == 200
    assert (await api.get(f"/v1/images/jobs/{PIN}")).json()["state"] == "cancelled", "the newest of the pin"


async def test_image_job_events_are_streamed(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/images/jobs", json={"pin": PIN})).json()["id"]
    change = state.store.images.update
    change(made, lambda old: old.changed(NOW, state=BatchJobState.RUNNING, stage="packages", done=3, of=140))
    change(made, lambda old: old.ended(NOW, BatchJobState.DONE, "built in 9 s"))
    text = (await api.get(f"/v1/images/jobs/{made}/events")).text
    assert text.count("data:") == 3 and '"of":140' in text and "built in 9 s" in text
