"""Downloads over HTTP, and what the catalog says of the cluster's disk."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from bouchet_api import model_status as disk
from bouchet_api.dependencies import AppState
from bouchet_core.batch_jobs import BatchJobState
from bouchet_core.downloads import DiskListing, DiskModel, Download

from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import KEY, RunningApi

from .test_deployments import queued

QWEN = "Qwen/Qwen3-32B"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def advance(app: AppState, identity: str, **fields: object) -> Download:
    return app.store.downloads.update(identity, lambda old: old.changed(NOW, **fields))


def end(api_state: AppState, identity: str, state: BatchJobState = BatchJobState.DONE) -> None:
    api_state.store.downloads.update(identity, lambda old: old.ended(NOW, state, "over"))


async def test_a_download_is_on_record_and_in_the_queue(api: httpx.AsyncClient, state: AppState) -> None:
    answer = await api.post("/v1/models/download", json={"model": "bouchet-qwen3-32b"})
    assert answer.status_code == 202
    made = answer.json()
    assert (made["model"], made["state"], made["revision"]) == (QWEN, "queued", "main")
    assert queued(state.store) == [("bouchet_worker.tasks.download", (made["id"],))]
    assert (await api.get(answer.headers["location"])).json() == made
    assert (await api.get(f"/v1/downloads/{QWEN}")).json() == made
    assert (await api.get("/v1/downloads")).json()["downloads"] == [made]


async def test_asking_again_while_it_runs_is_the_same_download(api: httpx.AsyncClient, state: AppState) -> None:
    first = (await api.post("/v1/models/download", json={"model": QWEN})).json()
    advance(state, first["id"], slurm_id=7, state=BatchJobState.RUNNING)
    again = await api.post("/v1/models/download", json={"model": QWEN, "revision": "v2"})
    assert (again.status_code, again.json()["id"]) == (202, first["id"])
    end(state, first["id"])
    assert (await api.post("/v1/models/download", json={"model": QWEN})).json()["id"] != first["id"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "qwen3-23b"}, 404, "bouchet-qwen3-32b"),
        ({"model": "a'; echo x/y"}, 404, "no model"),
        ({"model": "../../etc"}, 404, "no model"),
        ({"model": "a/b", "revision": "--upload-pack=x"}, 422, "revision"),
        ({"model": "a/b", "revison": "main"}, 422, "did you mean `revision`"),
        ({}, 422, "missing"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    api: httpx.AsyncClient, state: AppState, body: dict[str, str], status: int, words: str
) -> None:
    answer = await api.post("/v1/models/download", json=body)
    assert answer.status_code == status and words in answer.json()["detail"]
    assert queued(state.store) == []


async def test_a_full_id_outside_the_catalog_is_taken(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/models/download", json={"model": "org/Some.Model_1-x", "revision": "refs/pr/3"})
    assert (answer.status_code, answer.json()["model"]) == (202, "org/Some.Model_1-x")


async def test_ending_one_twice_does_no_harm(api: httpx.AsyncClient, state: AppState) -> None:
    made = (await api.post("/v1/models/download", json={"model": QWEN})).json()
    answer = await api.delete(f"/v1/downloads/{QWEN}")
    assert answer.status_code == 202 and answer.json()["stop_requested_at"]
    assert queued(state.store)[-1] == ("bouchet_worker.tasks.cancel_download", (made["id"],))
    end(state, made["id"], BatchJobState.CANCELLED)
    assert (await api.delete(f"/v1/downloads/{made['id']}")).status_code == 200
    assert (await api.delete("/v1/downloads/nothing")).json()["kind"] == "unknown_download"


def test_its_changes_are_a_stream_that_resumes_and_ends(live_api: RunningApi) -> None:
    state = live_api.state
    with httpx.Client(base_url=live_api.url, headers={"x-api-key": KEY}, timeout=60, trust_env=False) as client:
        made = client.post("/v1/models/download", json={"model": QWEN}).json()["id"]
        other = client.post("/v1/models/download", json={"model": "a/b"}).json()["id"]
        advance(state, made, state=BatchJobState.RUNNING, bytes=10, total_bytes=100)
        advance(state, other, bytes=1)
        done = threading.Timer(0.2, end, (state, made))
        done.start()
        with client.stream("GET", f"/v1/downloads/{made}/events") as response:
            seen = list(messages(response))
        done.join()
        assert [(m["data"]["state"], m["data"]["bytes"]) for m in seen] == [
            ("queued", 0),
            ("running", 10),
            ("done", 10),
        ]
        with client.stream("GET", f"/v1/downloads/{made}/events", headers={"Last-Event-ID": seen[1]["id"]}) as response:
            assert [m["data"]["state"] for m in messages(response)] == ["done"]


def messages(response: httpx.Response) -> Iterator[dict[str, object]]:
    message: dict[str, object] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if not line and "data" in message:
            yield message
            message = {}
        elif name in ("id", "data"):
            message[name] = json.loads(value) if name == "data" else value


# the cluster's disk


def look(**states: DiskModel) -> DiskListing:
    return DiskListing(models={QWEN: states["qwen"]} if states else {}, free_bytes=5, looked_at=datetime.now(UTC))


def rows(answer: httpx.Response) -> dict[str, dict[str, object]]:
    return {model["id"]: model["disk"] for model in answer.json()["models"]}


async def test_unknown_while_the_tunnel_is_down_and_at_once(
    api: httpx.AsyncClient, state: AppState, gateway: FakeGateway
) -> None:
    gateway.tunnel = {**gateway.tunnel, "state": "down"}
    disk = rows(await api.get("/v1/models"))[QWEN]
    assert (disk["state"], disk["percent"], disk["looked_at"]) == ("unknown", None, None)
    assert queued(state.store) == []


async def test_a_look_is_asked_for_once_and_waited_for(
    api: httpx.AsyncClient, state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "WAIT_S", 60.0)
    ready = look(qwen=DiskModel(state="ready", bytes=9, total_bytes=9, revision="c" * 40))

    def answer_when_asked() -> None:
        while not queued(state.store):
            time.sleep(0.01)
        state.store.downloads.keep_disk(ready)

    answered = threading.Thread(target=answer_when_asked)
    answered.start()
    answer = await api.get("/v1/models")
    answered.join()
    assert (rows(answer)[QWEN]["state"], rows(answer)[QWEN]["percent"]) == ("ready", 100)
    others = [disk["state"] for name, disk in rows(answer).items() if name != QWEN]
    assert set(others) == {"missing"} and answer.json()["free_bytes"] == 5
    assert queued(state.store) == [("bouchet_worker.tasks.list_models", ("now",))]
    await api.get("/v1/models")
    assert len(queued(state.store)) == 1


async def test_an_old_look_is_better_than_none(api: httpx.AsyncClient, state: AppState) -> None:
    old = look(qwen=DiskModel(state="ready", bytes=9, total_bytes=9))
    old = old.model_copy(update={"looked_at": datetime.now(UTC) - timedelta(hours=1)})
    state.store.downloads.keep_disk(old)
    assert rows(await api.get("/v1/models?refresh=false"))[QWEN]["state"] == "ready"
    assert queued(state.store) == []
    assert rows(await api.get("/v1/models"))[QWEN]["state"] == "ready"
    assert len(queued(state.store)) == 1


async def test_a_download_under_way_is_newer_than_the_look(api: httpx.AsyncClient, state: AppState) -> None:
    state.store.downloads.keep_disk(look())
    made = (await api.post("/v1/models/download", json={"model": QWEN})).json()["id"]
    advance(state, made, state=BatchJobState.RUNNING, bytes=43, total_bytes=100)
    disk = rows(await api.get("/v1/models"))[QWEN]
    assert (disk["state"], disk["percent"], disk["download"]) == ("partial", 43, made)
