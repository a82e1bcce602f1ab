"""Senders over a real Redis: retries with pauses, targets that fail or hang, and what is kept of each message."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from bouchet_core.notices import EVENTS, Delivery, Message, MessageReport, NoticeKind, NotifierStatus, TargetStatus
from bouchet_core.store import Store
from bouchet_notifier.delivery import CROWDED, Outbox, TargetSender, first_status
from bouchet_notifier.targets import AttemptResult, Target

from tests.conftest import RedisServer
from tests.waiting import wait_for

NOW = datetime.now(UTC)
PAUSES = (0.05, 0.05)
OK, LATER = AttemptResult(service="Demo"), AttemptResult("it has an error of its own (HTTP 500)", False, "Demo")


def message(number: int, kind: NoticeKind = NoticeKind.READY) -> Message:
    return Message(id=f"m{number}", kind=kind, title=f"title {number}", at=NOW)


class Tries:
    """Results of the next tries of a target, the last one for ever. released: until then a try hangs."""

    def __init__(self, *results: AttemptResult, check: AttemptResult = OK) -> None:
        self.results, self.checked, self.sent = list(results), check, list[str]()
        self.released = threading.Event()
        self.released.set()

    def check(self, target: Target) -> AttemptResult:
        return self.checked

    def send(self, target: Target, one: Message) -> AttemptResult:
        self.sent.append(one.id)
        self.released.wait(30)
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


@pytest.fixture
def own(redis_server: RedisServer) -> Iterator[Store]:
    store = redis_server.store("notifier")
    yield store
    store.close()


class Senders:
    """Senders of these targets over one outbox."""

    def __init__(self, store: Store, *tries: Tries) -> None:
        self.store, self.targets = store, [Target(n, f"demo://secret-{n}") for n in range(1, len(tries) + 1)]
        self.outbox = Outbox(store.notices, first_status(self.targets, EVENTS, None, NOW), threading.Event())
        self.senders = [
            TargetSender(target, self.outbox, PAUSES, one.check, one.send)
            for target, one in zip(self.targets, tries, strict=True)
        ]
        for sender in self.senders:
            sender.start()

    def add(self, one: Message) -> None:
        report = MessageReport(message=one, deliveries=tuple(Delivery(target=t.number) for t in self.targets))
        self.store.notices.take({}, "", [report])
        self.outbox.add(report)
        for sender in self.senders:
            sender.add(one)

    def deliveries(self, one: Message) -> list[tuple[str, int, str]]:
        """Wait until it is settled; return state, tries and problem at each target."""

        def settled() -> MessageReport | None:
            found = self.store.notices.message(one.id)
            return found if found is not None and found.is_settled else None

        return [(d.state, d.tries, d.problem) for d in wait_for(settled).deliveries]

    def stop(self) -> None:
        for sender in self.senders:
            sender.stop()
            sender.join(30)


def test_failed_try_is_repeated_after_pauses_until_it_works(own: Store) -> None:
    tries = Tries(LATER, LATER, OK)
    senders = Senders(own, tries)
    senders.add(message(1))
    assert senders.deliveries(message(1)) == [("sent", 3, "")]
    senders.stop()
    assert own.notices.outbox() == [] and tries.sent == ["m1"] * 3


def test_message_is_given_up_after_the_last_pause_and_the_reason_is_shown(own: Store) -> None:
    senders = Senders(own, Tries(LATER))
    senders.add(message(1))
    assert senders.deliveries(message(1)) == [("failed", 3, LATER.problem)]
    senders.stop()
    status = own.notices.status()
    assert status is not None and status.targets[0].problem == LATER.problem
    assert status.targets[0].shown == "Demo (demo://***)"


def test_final_problem_and_a_test_are_tried_once(own: Store) -> None:
    final = AttemptResult("it refuses the message (HTTP 400)", True, "Demo")
    senders = Senders(own, Tries(final, LATER))
    senders.add(message(1))
    assert senders.deliveries(message(1)) == [("failed", 1, final.problem)]
    senders.add(message(2, NoticeKind.TEST))
    assert senders.deliveries(message(2)) == [("failed", 1, LATER.problem)]
    senders.stop()


def test_url_that_cannot_be_used_is_never_tried(own: Store) -> None:
    tries = Tries(OK, check=AttemptResult("apprise has no service `demo://`", True))
    senders = Senders(own, tries)
    senders.add(message(1))
    assert senders.deliveries(message(1)) == [("failed", 1, "apprise has no service `demo://`")]
    senders.stop()
    assert tries.sent == []


def test_target_that_hangs_keeps_no_other_waiting(own: Store) -> None:
    slow, quick = Tries(OK), Tries(OK)
    slow.released.clear()
    senders = Senders(own, slow, quick)
    for number in range(5):
        senders.add(message(number))
    wait_for(lambda: len(quick.sent) == 5)
    waiting = own.notices.outbox()
    assert {one.deliveries[0].state for one in waiting} == {"waiting"}
    slow.released.set()
    assert senders.deliveries(message(4)) == [("sent", 1, ""), ("sent", 1, "")]
    senders.stop()


def test_stop_waits_for_the_try_under_way_and_begins_no_other(own: Store) -> None:
    tries = Tries(OK)
    tries.released.clear()
    senders = Senders(own, tries)
    senders.add(message(1))
    senders.add(message(2))
    wait_for(lambda: tries.sent == ["m1"])
    threading.Timer(0.3, tries.released.set).start()
    senders.stop()
    left = own.notices.outbox()
    assert [one.message.id for one in left] == ["m2"] and tries.sent == ["m1"]
    assert senders.deliveries(message(1)) == [("sent", 1, "")]


def test_outbox_is_bounded_while_a_target_fails(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_notifier.delivery.OUTBOX_KEPT", 3)
    senders = Senders(own, Tries(LATER))
    for number in range(12):
        senders.add(message(number))
    states = [senders.deliveries(message(number))[0] for number in range(12)]
    senders.stop()
    assert {state for state, _, _ in states} == {"failed"} and CROWDED in {problem for _, _, problem in states}


def test_status_keeps_what_is_known_of_the_same_target() -> None:
    old = TargetStatus(number=1, shown="ntfy (ntfys://***)", problem="it did not answer in time")
    before = NotifierStatus(started_at=NOW, events=(), targets=(old,))
    same = first_status([Target(1, "ntfys://topic")], EVENTS, before, NOW)
    assert same.targets == (old,) and same.events == EVENTS
    other = first_status([Target(1, "slack://token")], EVENTS, before, NOW)
    assert other.targets == (TargetStatus(number=1, shown="slack://***"),)
