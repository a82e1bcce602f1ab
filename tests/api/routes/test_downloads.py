"""/v1/downloads."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import httpx
import pytest
from bouchet_api.dependencies import AppState
from bouchet_core.batch_jobs import BatchJobState, Download

from tests.fakes.running_api import RunningApi, queued_tasks, read_events

QWEN = "Qwen/Qwen3-32B"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def advance(app: AppState, identity: str, **fields: object) -> Download:
    return app.store.downloads.update(identity, lambda old: old.changed(NOW, **fields))


def end(app: AppState, identity: str, state: BatchJobState = BatchJobState.DONE) -> None:
    app.store.downloads.update(identity, lambda old: old.ended(NOW, state, "over"))


async def test_new_download_is_recorded_and_enqueued(api: httpx.AsyncClient, state: AppState) -> None:
    answer = await api.post("/v1/models/download", json={"model": "bouchet-qwen3-32b"})
    assert answer.status_code == 202
    made = answer.json()
    assert (made["model"], made["state"], made["revision"]) == (QWEN, "queued", "main")
    assert queued_tasks(state.store) == [("download", made["id"])]
    for path in (answer.headers["location"], f"/v1/downloads/{QWEN}", "/v1/downloads/bouchet-qwen3-32b"):
        assert (await api.get(path)).json() == made
    assert (await api.get("/v1/downloads")).json()["downloads"] == [made]


async def test_second_request_returns_the_live_download(api: httpx.AsyncClient, state: AppState) -> None:
    first = (await api.post("/v1/models/download", json={"model": QWEN})).json()
    advance(state, first["id"], slurm_id=7, state=BatchJobState.RUNNING)
    other = await api.post("/v1/models/download", json={"model": QWEN, "revision": "v2"})
    assert (other.status_code, other.json()["kind"]) == (409, "other_work_in_progress")
    again = await api.post("/v1/models/download", json={"model": QWEN, "revision": "main"})
    assert (again.status_code, again.json()["id"]) == (202, first["id"])
    assert queued_tasks(state.store) == [("download", first["id"])]
    end(state, first["id"])
    assert (await api.post("/v1/models/download", json={"model": QWEN})).json()["id"] != first["id"]


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"model": "qwen3-23b"}, 404, "bouchet-qwen3-32b"),
        ({"model": "a'; echo x/y"}, 404, "no model"),
        ({"model": "../../etc"}, 404, "no model"),
        ({"model": "a/b", "revision": "--upload-pack=x"}, 422, "revision"),
        ({"model": "a/b", "revison": "main"}, 422, "did you mean `revision`"),
        ({}, 422, "missing"),
    ],
)
async def test_invalid_download_request_is_refused(
    api: httpx.AsyncClient, state: AppState, body: dict[str, str], status: int, expected: str
) -> None:
    answer = await api.post("/v1/models/download", json=body)
    assert answer.status_code == status and expected in answer.json()["detail"]
    assert queued_tasks(state.store) == []


async def test_full_id_that_is_not_in_the_catalog_is_accepted(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/models/download", json={"model": "org/Some.Model_1-x", "revision": "refs/pr/3"})
    assert (answer.status_code, answer.json()["model"]) == (202, "org/Some.Model_1-x")


async def test_cancel_is_enqueued_and_repeatable(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/models/download", json={"model": QWEN})).json()
    answer = await api.delete(f"/v1/downloads/{QWEN}")
    assert answer.status_code == 202 and answer.json()["stop_requested_at"]
    assert queued_tasks(state.store)[-1] == ("cancel_download", made["id"])
    end(state, made["id"], BatchJobState.CANCELLED)
    assert (await api.delete(f"/v1/downloads/{made['id']}")).status_code == 200
    assert (await api.delete("/v1/downloads/nothing")).json()["kind"] == "unknown_download"


def test_download_events_resume_and_end_with_the_download(client: httpx.Client, live_api: RunningApi) -> None:
    app = live_api.state
    made = client.post("/v1/models/download", json={"model": QWEN}).json()["id"]
    other = client.post("/v1/models/download", json={"model": "a/b"}).json()["id"]
    advance(app, made, state=BatchJobState.RUNNING, bytes=10, total_bytes=100)
    advance(app, other, bytes=1)
    done = threading.Timer(0.2, end, (app, made))
    done.start()
    with client.stream("GET", f"/v1/downloads/{made}/events") as response:
        seen = list(read_events(response))
    done.join()
    assert [(e["data"]["state"], e["data"]["bytes"]) for e in seen] == [("queued", 0), ("running", 10), ("done", 10)]
    with client.stream("GET", f"/v1/downloads/{made}/events", headers={"Last-Event-ID": seen[1]["id"]}) as response:
        assert [e["data"]["state"] for e in read_events(response)] == ["done"]
