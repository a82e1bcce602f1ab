"""/v1/notifications, and what status and doctor say of them; the notifier's side is written by its own user."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from bouchet_api.dependencies import AppState
from bouchet_core.notices import Delivery, Message, MessageReport, NoticeKind, NotifierStatus, TargetStatus
from bouchet_core.store import Store
from bouchet_core.store.notices import NotifierEntry
from fastapi import FastAPI

from tests.conftest import RedisServer

NOW = datetime.now(UTC)
TARGETS = (TargetStatus(number=1, shown="ntfy (ntfys://***)"), TargetStatus(number=2, shown="Slack (slack://***)"))


@pytest.fixture
def notifier(redis_server: RedisServer) -> Iterator[Store]:
    store = redis_server.store("notifier")
    yield store
    store.close()


@pytest.fixture
def configured(app: FastAPI, state: AppState) -> None:
    app.state.bouchet = replace(state, notifies=True)


def running(notifier: Store, *problems: str) -> None:
    """Have the notifier run, with these problems of its targets."""
    targets = tuple(
        target.model_copy(update={"problem": problem}) for target, problem in zip(TARGETS, problems, strict=False)
    )
    notifier.beat("notifier", 60)
    notifier.notices.report(NotifierStatus(started_at=NOW, events=(NoticeKind.READY,), targets=targets or TARGETS))


async def notifier_check(api: httpx.AsyncClient) -> dict[str, Any]:
    checks = (await api.get("/v1/doctor", timeout=60)).json()["checks"]
    return next(one for one in checks if one["name"] == "notifier")


async def test_without_a_target_nothing_is_configured_and_a_test_is_refused(api: httpx.AsyncClient) -> None:
    body = (await api.get("/v1/notifications")).json()
    assert (body["configured"], body["problem"], body["messages"]) == (False, "", [])
    answer = await api.post("/v1/notifications/test")
    assert (answer.status_code, answer.json()["kind"]) == (409, "targets_missing")
    assert "NOTIFY_URLS" in answer.json()["detail"]
    assert (await notifier_check(api))["verdict"] == "pass"


@pytest.mark.usefixtures("configured")
async def test_notifier_that_does_not_run_is_named_everywhere(api: httpx.AsyncClient) -> None:
    problem = (await api.get("/v1/notifications")).json()["problem"]
    assert "no recent heartbeat" in problem
    assert (await api.get("/v1/status")).json()["notifications_problem"] == problem
    answer = await api.post("/v1/notifications/test")
    assert (answer.status_code, answer.json()["kind"]) == (503, "notifier_silent")
    check = await notifier_check(api)
    assert check["verdict"] == "warn" and "make up" in check["fix"]


@pytest.mark.usefixtures("configured")
async def test_failing_target_is_named_with_its_problem(api: httpx.AsyncClient, notifier: Store) -> None:
    running(notifier, "", "it does not know the address or token of the URL (HTTP 404)")
    shown = "target 2, Slack (slack://***): it does not know the address or token of the URL (HTTP 404)"
    assert (await api.get("/v1/status")).json()["notifications_problem"] == shown
    check = await notifier_check(api)
    assert (check["verdict"], check["message"]) == ("warn", shown) and "notify test" in check["fix"]


@pytest.mark.usefixtures("configured")
async def test_working_targets_pass_and_messages_are_listed_newest_first(
    api: httpx.AsyncClient, notifier: Store
) -> None:
    running(notifier)
    sent = (Delivery(target=1, state="sent", tries=1), Delivery(target=2, state="failed", tries=5, problem="x"))
    for number in range(3):
        message = Message(id=f"m{number}", kind=NoticeKind.READY, title=f"title {number}", at=NOW)
        notifier.notices.keep(MessageReport(message=message, deliveries=sent))
    waiting = Message(id="m3", kind=NoticeKind.ENDED, title="title 3", at=NOW)
    notifier.notices.take({}, "", [MessageReport(message=waiting, deliveries=(Delivery(target=1),))])
    body = (await api.get("/v1/notifications")).json()
    assert [one["message"]["title"] for one in body["messages"]] == ["title 3", "title 2", "title 1", "title 0"]
    assert body["status"]["targets"][0]["shown"] == "ntfy (ntfys://***)"
    check = await notifier_check(api)
    assert (check["verdict"], check["message"]) == ("pass", "sends to ntfy (ntfys://***), Slack (slack://***)")


@pytest.mark.usefixtures("configured")
async def test_test_waits_for_the_result_of_each_target(api: httpx.AsyncClient, notifier: Store) -> None:
    running(notifier)
    asked = asyncio.create_task(api.post("/v1/notifications/test", timeout=60))
    entries: list[NotifierEntry] = []
    while not entries:
        entries = [one for one in await asyncio.to_thread(notifier.notices.wait, {}, 1.0) if one.stream == "tests"]
    message = Message(id=f"test-{entries[0].id}", kind=NoticeKind.TEST, title="a test", at=NOW)
    results = (Delivery(target=1, state="sent", tries=1), Delivery(target=2, state="failed", problem="HTTP 404"))
    notifier.notices.keep(MessageReport(message=message, deliveries=results))
    body = (await asked).json()
    assert [(one["target"], one["state"]) for one in body["test"]["deliveries"]] == [(1, "sent"), (2, "failed")]
    assert len(body["targets"]) == 2


@pytest.mark.usefixtures("configured")
async def test_test_without_a_result_says_where_it_is_shown_later(
    api: httpx.AsyncClient, notifier: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bouchet_api.routes.notifications.TEST_WAIT_S", 0.5)
    running(notifier)
    answer = await api.post("/v1/notifications/test")
    assert answer.status_code == 503 and "`bouchet notify`" in answer.json()["detail"]
