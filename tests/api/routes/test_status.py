"""GET /v1/status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
from bouchet_api.dependencies import AppState
from bouchet_api.routes.status import MAX_ENDED
from bouchet_core.deployments import Deployment, Ending, LaunchRequest, Phase
from bouchet_core.store import ENDED_KEPT, Store

from tests.fakes.gateway_api import FakeGateway

MODEL = "Qwen/Qwen3-32B"


def hours_before_now(hours: float) -> datetime:
    """Return that time. Modules are imported long before their last test runs."""
    return datetime.now(UTC) - timedelta(hours=hours)


def launch(store: Store, identity: str, name: str = "", hours_ago: float = 1.0) -> Deployment:
    at = hours_before_now(hours_ago)
    request = LaunchRequest(model=MODEL, name=name or identity)
    names = (name or identity,)
    record = Deployment(id=identity, model=MODEL, names=names, request=request, created_at=at, updated_at=at)
    return store.create(record)


def end(store: Store, identity: str, ending: Ending = Ending.FAILED, hours_ago: float = 0.5) -> None:
    at = hours_before_now(hours_ago)
    store.update(identity, lambda d: d.moved(Phase.ENDED, at, reason="out of memory", ending=ending))


async def ended(api: httpx.AsyncClient) -> list[str]:
    return [one["id"] for one in (await api.get("/v1/status")).json()["ended"]]


async def test_status_has_live_deployments_newest_first_and_the_tunnel(api: httpx.AsyncClient, state: AppState) -> None:
    launch(state.store, "old", hours_ago=2)
    launch(state.store, "new")
    body = (await api.get("/v1/status")).json()
    names = ["deployments", "ended", "ended_more", "tunnel", "tunnel_error", "cluster_outage", "orphans"]
    names += ["ledger_problem", "notifications_problem"]
    assert list(body) == names
    assert [Deployment.model_validate(one).id for one in body["deployments"]] == ["new", "old"]
    assert (body["tunnel"]["state"], body["tunnel_error"], body["cluster_outage"]) == ("up", None, None)


async def test_status_without_gateway_has_its_error(api: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.stop()
    answer = await api.get("/v1/status")
    assert answer.status_code == 200
    assert answer.json()["tunnel"] is None
    assert "gateway" in answer.json()["tunnel_error"]


async def test_status_during_outage_has_its_message(api: httpx.AsyncClient, store: Store) -> None:
    store.outage.record("squeue failed", hours_before_now(0))
    assert (await api.get("/v1/status")).json()["cluster_outage"]["detail"] == "squeue failed"


async def test_unexpected_ends_are_listed_and_cancelled_ones_are_not(api: httpx.AsyncClient, state: AppState) -> None:
    for identity, ending in (("failed", Ending.FAILED), ("cancelled", Ending.CANCELLED)):
        launch(state.store, identity)
        end(state.store, identity, ending)
    assert await ended(api) == ["failed"]


async def test_end_older_than_12_hours_is_not_listed(api: httpx.AsyncClient, state: AppState) -> None:
    for identity, hours_ago in (("old", 12.1), ("recent", 11.9)):
        launch(state.store, identity, hours_ago=20)
        end(state.store, identity, hours_ago=hours_ago)
    assert await ended(api) == ["recent"]


async def test_later_deployment_of_the_name_replaces_an_ended_one(api: httpx.AsyncClient, state: AppState) -> None:
    for identity, name in (("a1", "a"), ("b1", "b"), ("c1", "c")):
        launch(state.store, identity, name, hours_ago=3)
        end(state.store, identity, hours_ago=2)
    launch(state.store, "a2", "a")
    launch(state.store, "b2", "b")
    end(state.store, "b2", Ending.CANCELLED)
    assert await ended(api) == ["c1"]


async def test_at_most_three_ended_ones_are_listed_newest_first(api: httpx.AsyncClient, state: AppState) -> None:
    for n in range(5):
        launch(state.store, f"d{n}", hours_ago=5 - n)
        end(state.store, f"d{n}")
    assert await ended(api) == ["d4", "d3", "d2"] and MAX_ENDED == 3


def test_ended_since_keeps_the_first_end_when_the_record_changes_later(store: Store) -> None:
    launch(store, "aa", hours_ago=30)
    end(store, "aa", hours_ago=20)
    store.update("aa", lambda d: d.model_copy(update={"version": d.version + 1, "updated_at": hours_before_now(0)}))
    assert store.ended_since(hours_before_now(12)) == []
    assert [d.id for d in store.ended_since(hours_before_now(21))] == ["aa"]
    assert ENDED_KEPT >= 100
