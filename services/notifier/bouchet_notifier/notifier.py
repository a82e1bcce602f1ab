"""The loop of the notifier: one blocking read of all streams. Messages and how far it has read are one step."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bouchet_core.errors import StoreError
from bouchet_core.notices import NOTICE_AGE, Delivery, Message, MessageReport, Notice, NoticeKind
from bouchet_core.store import Store
from bouchet_core.store.notices import TEST_ID, NotifierEntry
from bouchet_core.tasks import NOTIFIER_HEARTBEAT
from bouchet_core.tunnel import TunnelEvent
from pydantic import ValidationError

from .delivery import Outbox, TargetSender, first_status
from .messages import PERSON_GRACE_S, PersonState, messages_of
from .targets import DEADLINE_S, Target

log = logging.getLogger(__name__)

# one read waits within Redis for so long, and the heartbeat is renewed after each
WAIT_S = 4.0
HEARTBEAT_S = 20.0
PAUSE_AFTER_FAILURE_S = 1.0
# the API has given up waiting for the result of an older test
TEST_AGE_S = 60.0
TEST_TITLE, TEST_TEXT = "bouchet-llm: a test", "Messages about your models arrive here."


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class Notifier:
    """Reads notices, tunnel events and tests, and hands messages to the senders of the targets.

    grace_s: how long the connection waits for a person before a message is sent about it. make_sender: for tests.
    """

    def __init__(
        self,
        store: Store,
        targets: Sequence[Target],
        events: Sequence[NoticeKind],
        heartbeat_file: Path | None = None,
        grace_s: float = PERSON_GRACE_S,
        now: Callable[[], datetime] = utc_now,
        make_sender: Callable[[Target, Outbox], TargetSender] = TargetSender,
    ) -> None:
        self._store, self._targets, self._events = store, targets, tuple(events)
        self._heartbeat_file, self._grace_s, self._now, self._make_sender = heartbeat_file, grace_s, now, make_sender
        self._stopping = threading.Event()
        self._senders: list[TargetSender] = []
        self._read: dict[str, str] = {}
        self._person = PersonState()
        # when the wait for a person was first noticed (monotonic)
        self._person_since = 0.0

    def stop(self) -> None:
        """End `run` after the read and the tries that are under way."""
        self._stopping.set()

    def run(self) -> None:
        """Send messages until stopped."""
        if not self._retried(self._begin):
            return
        for sender in self._senders:
            sender.start()
        while self._retried(self._step):
            pass
        for sender in self._senders:
            sender.stop()
        deadline = time.monotonic() + DEADLINE_S
        for sender in self._senders:
            sender.join(max(0.0, deadline - time.monotonic()))

    def _retried(self, step: Callable[[], None]) -> bool:
        """Run a step, again while the store does not answer; False when it is time to stop."""
        while not self._stopping.is_set():
            try:
                step()
                return not self._stopping.is_set()
            except StoreError as exc:
                log.warning("notices wait: %s", exc)
                self._stopping.wait(PAUSE_AFTER_FAILURE_S)
        return False

    def _begin(self) -> None:
        """Read how far an earlier process came, and go on with the messages that it left."""
        notices, now = self._store.notices, self._now()
        position = notices.position()
        if position.is_new:
            # nothing was ever sent: what happened before the notifier was switched on is not news
            begin = f"{int((now - NOTICE_AGE).timestamp() * 1000)}-0"
            self._read = {**notices.ends(), "notices": begin, "tunnel": begin}
        else:
            self._read = dict(position.read)
        self._person = _person_of(position.state)
        self._person_since = time.monotonic()
        status = first_status(self._targets, self._events, notices.status(), now)
        outbox = Outbox(notices, status, self._stopping)
        outbox.store_status()
        self._outbox = outbox
        self._senders = [self._make_sender(target, outbox) for target in self._targets]
        for report in notices.outbox():
            self._hand_on(self._fitted(report))
        self._beat()

    def _fitted(self, report: MessageReport) -> MessageReport:
        """Return a message of an earlier process without deliveries to targets that are gone."""
        numbers = {target.number for target in self._targets}
        kept = tuple(one for one in report.deliveries if one.state != "waiting" or one.target in numbers)
        fitted = report.model_copy(update={"deliveries": kept})
        if fitted.is_settled:
            self._store.notices.keep(fitted)
        return fitted

    def _step(self) -> None:
        """Read once, and store what follows in one step."""
        entries = self._store.notices.wait(self._read, self._wait_s())
        person, read = self._person, dict(self._read)
        notices: list[tuple[str, Notice]] = []
        messages: list[Message] = []
        for entry in entries:
            read[entry.stream] = entry.id
            if isinstance(entry.value, Notice):
                notices.append((entry.id, entry.value))
            elif isinstance(entry.value, TunnelEvent):
                person = person.advance(entry.id, entry.value)
            elif entry.stream == "tests" and self._is_recent(entry):
                messages.append(self._test(entry))
        if person.entry != self._person.entry:
            self._person_since = time.monotonic()
        now = self._now()
        if person.is_due and time.monotonic() - self._person_since >= self._grace_s:
            if NoticeKind.NEEDS_PERSON in self._events:
                messages.append(person.message(now))
            person = person.model_copy(update={"sent_at": now})
        messages += messages_of(notices, self._events, now)
        if read != self._read or person != self._person:
            reports = [self._report(message) for message in messages] if self._targets else []
            self._store.notices.take(read, person.model_dump_json(), reports)
            self._read, self._person = read, person
            for report in reports:
                self._hand_on(report)
        self._beat()

    def _wait_s(self) -> float:
        """Return how long the next read may wait: until a person is to be asked, WAIT_S at most."""
        if not self._person.is_due:
            return WAIT_S
        return min(WAIT_S, max(0.01, self._person_since + self._grace_s - time.monotonic()))

    def _report(self, message: Message) -> MessageReport:
        return MessageReport(
            message=message, deliveries=tuple(Delivery(target=target.number) for target in self._targets)
        )

    def _hand_on(self, report: MessageReport) -> None:
        waiting = {one.target: one for one in report.deliveries if one.state == "waiting"}
        if not waiting:
            return
        self._outbox.add(report)
        for sender in self._senders:
            if sender.target.number in waiting:
                sender.add(report.message, waiting[sender.target.number].tries)

    def _is_recent(self, entry: NotifierEntry) -> bool:
        milliseconds = int(entry.id.partition("-")[0])
        return abs(self._now().timestamp() - milliseconds / 1000) <= TEST_AGE_S

    def _test(self, entry: NotifierEntry) -> Message:
        return Message(
            id=f"{TEST_ID}{entry.id}", kind=NoticeKind.TEST, title=TEST_TITLE, text=TEST_TEXT, at=self._now()
        )

    def _beat(self) -> None:
        self._store.beat(NOTIFIER_HEARTBEAT, HEARTBEAT_S)
        if self._heartbeat_file is not None:
            self._heartbeat_file.touch()


def _person_of(state: str) -> PersonState:
    """Return the stored state; one that another version wrote and that cannot be read is none."""
    try:
        return PersonState.model_validate_json(state) if state else PersonState()
    except ValidationError:
        return PersonState()
