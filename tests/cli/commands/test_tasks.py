"""`bouchet tasks`, `bouchet orphans` and `bouchet notify` over the real API; the rest needs a worker: tests/contracts.

What the notifier writes is written by the test.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bouchet_core.notices import Delivery, Message, MessageReport, NoticeKind, NotifierStatus, TargetStatus
from bouchet_core.store import Store

from tests.cli.harness import QWEN, TO_READY, Bouchet, advance, one_line_error
from tests.cli.integrations.test_desktop import program

NOW = datetime.now(UTC)
FAILS = "it does not know the address or token of the URL (HTTP 404)"
TARGETS = (
    TargetStatus(number=1, shown="ntfy (ntfys://***)", sent_at=NOW),
    TargetStatus(number=2, shown="Slack (slack://***)", problem=FAILS),
)
SENT, FAILED = Delivery(target=1, state="sent", tries=1), Delivery(target=2, state="failed", tries=1, problem=FAILS)


def test_tasks_without_failures_is_empty(bouchet: Bouchet) -> None:
    assert bouchet("tasks").status == 0
    assert json.loads(bouchet("tasks", "--json").out) == {"tasks": []}


@pytest.mark.parametrize("option", ["--retry", "--drop"])
def test_tasks_of_an_unknown_id_fail(bouchet: Bouchet, option: str) -> None:
    assert one_line_error(bouchet("tasks", option, "nosuch"), 3)


@pytest.mark.parametrize("option", ["--adopt", "--cancel"])
@pytest.mark.parametrize("job", ["x", "-1", "0", "9" * 14, "٣"])
def test_orphans_refuse_what_is_not_a_job_id(bouchet: Bouchet, option: str, job: str) -> None:
    assert one_line_error(bouchet("orphans", f"{option}={job}"), 2)


@pytest.fixture
def notifier(bouchet: Bouchet) -> Iterator[Store]:
    """Configure notifications, and yield the store of a notifier that runs."""
    state, store = bouchet.api.app.state, bouchet.store
    before, state.bouchet = state.bouchet, replace(state.bouchet, notifies=True)
    store.beat("notifier", 60)
    store.notices.report(NotifierStatus(started_at=NOW, events=(NoticeKind.READY, NoticeKind.ENDED), targets=TARGETS))
    yield store
    state.bouchet = before


def test_notify_without_a_target_says_how_to_name_one(bouchet: Bouchet) -> None:
    shown = bouchet("notify")
    assert shown.status == 0 and "NOTIFY_URLS" in shown.out and "`make up`" in shown.out
    assert json.loads(bouchet("notify", "--json").out)["configured"] is False
    refused = bouchet("notify", "test")
    assert refused.status == 1 and "NOTIFY_URLS" in refused.err and not refused.out


def test_notify_shows_targets_and_last_messages_without_secrets(bouchet: Bouchet, notifier: Store) -> None:
    message = Message(id="m1", kind=NoticeKind.READY, title="qwen is ready", at=NOW)
    notifier.notices.keep(MessageReport(message=message, deliveries=(SENT, FAILED)))
    shown = bouchet("notify")
    assert "target 1: ntfy (ntfys://***) works" in shown.out
    assert "target 2: Slack (slack://***) fails" in shown.out and FAILS in shown.out
    assert "sent: ready, ended" in shown.out and "qwen is ready 1 sent 1 failed" in shown.out
    narrow = bouchet("notify", COLUMNS="40")
    assert max(map(len, narrow.out.splitlines())) <= 40
    assert "warning: " in shown.err
    status = bouchet("status", COLUMNS="40").out.splitlines()
    first = next(number for number, line in enumerate(status) if line.startswith("notifications: target 2"))
    assert max(map(len, status[first:])) <= 40


@pytest.mark.parametrize(("deliveries", "status"), [((SENT, FAILED), 1), ((SENT,), 0)])
def test_notify_test_shows_each_target_and_fails_if_one_did(
    bouchet: Bouchet, notifier: Store, deliveries: tuple[Delivery, ...], status: int
) -> None:
    def answer() -> None:
        while not (found := [e for e in notifier.notices.wait({}, 1.0) if e.stream == "tests"]):
            pass
        message = Message(id=f"test-{found[-1].id}", kind=NoticeKind.TEST, title="a test", at=NOW)
        notifier.notices.keep(MessageReport(message=message, deliveries=deliveries))

    thread = threading.Thread(target=answer)
    thread.start()
    done = bouchet("notify", "test")
    thread.join()
    assert done.status == status and "target 1: ntfy (ntfys://***) sent" in done.out
    assert (FAILS in done.out) is (status == 1)


def test_launch_with_notify_notifies_the_desktop_while_it_waits(bouchet: Bouchet, tmp_path: Path) -> None:
    log = program(tmp_path, "notify-send")
    own = replace(bouchet, environment={**bouchet.environment, "PATH": f"{tmp_path}:/usr/bin:/bin", "DISPLAY": ":0"})

    def serve() -> None:
        advance(bouchet.store, bouchet.store.live()[0].id, *TO_READY)

    done = own.reacting({"requested": serve}, "launch", QWEN, "--notify", "--wait")
    assert done.status == 0 and bouchet.store.live()[0].request.notify
    assert "only this desktop is notified" in done.err
    assert json.loads(log.read_text())[0][2] == "bouchet-qwen3-32b is ready"


def test_launch_without_notify_notifies_no_desktop(bouchet: Bouchet, tmp_path: Path) -> None:
    log = program(tmp_path, "notify-send")
    own = replace(bouchet, environment={**bouchet.environment, "PATH": f"{tmp_path}:/usr/bin:/bin", "DISPLAY": ":0"})

    def serve() -> None:
        advance(bouchet.store, bouchet.store.live()[0].id, *TO_READY)

    assert own.reacting({"requested": serve}, "launch", QWEN, "--wait").status == 0
    assert not log.exists() and not bouchet.store.live()[0].request.notify


def test_launch_with_notify_warns_where_messages_do_not_arrive(bouchet: Bouchet, notifier: Store) -> None:
    assert notifier.beats("notifier")
    done = bouchet("launch", QWEN, "--notify", "--no-wait")
    assert done.status == 0 and "messages may not arrive: target 2" in done.err
