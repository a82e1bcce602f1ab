"""Sends messages: a thread for each target, so that one that hangs or fails keeps no other waiting."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from bouchet_core.errors import StoreError
from bouchet_core.notices import Delivery, Message, MessageReport, NoticeKind, NotifierStatus, TargetStatus
from bouchet_core.store.notices import OUTBOX_KEPT, NoticeStore

from .targets import AttemptResult, Target, check_target, send_message

log = logging.getLogger(__name__)

# pauses before the next tries of one message; after the last one it is given up
RETRY_AFTER_S = (5.0, 30.0, 120.0, 600.0)
# between two tries to store what became of a message
STORE_PAUSE_S = 1.0
CROWDED = "too many messages wait for this target"


class Outbox:
    """What became of each message at each target, and of each target. All threads share it."""

    def __init__(self, store: NoticeStore, status: NotifierStatus, stopping: threading.Event) -> None:
        self._store, self._stopping = store, stopping
        self._lock = threading.Lock()
        self._reports: dict[str, MessageReport] = {}
        self._status = status

    def add(self, report: MessageReport) -> None:
        """Begin to keep a message that is stored already."""
        with self._lock:
            self._reports[report.message.id] = report

    def is_crowded(self) -> bool:
        """Tell whether no more messages can wait."""
        with self._lock:
            return len(self._reports) > OUTBOX_KEPT

    def record(self, message: Message, delivery: Delivery) -> None:
        """Store what became of a message at one target; wait while the store does not answer."""
        with self._lock:
            report = self._reports[message.id].with_delivery(delivery)
            self._reports[message.id] = report
            if report.is_settled:
                del self._reports[message.id]
            # while the lock is held: the last of two threads to write knows both results
            self._until_stored(lambda: self._store.keep(report))

    def set_target(self, number: int, **changes: object) -> None:
        """Change what is known of a target, and store it."""
        with self._lock:
            targets = tuple(
                one.model_copy(update=changes) if one.number == number else one for one in self._status.targets
            )
            self._status = self._status.model_copy(update={"targets": targets})
            self._until_stored(lambda: self._store.report(self._status))

    def store_status(self) -> None:
        """Store the status again, for a Redis that has lost it."""
        with self._lock:
            self._store.report(self._status)

    def _until_stored(self, write: Callable[[], None]) -> None:
        while True:
            try:
                write()
            except StoreError as exc:
                log.warning("what became of a message is stored later: %s", exc)
                if self._stopping.wait(STORE_PAUSE_S):
                    return
            else:
                return


@dataclass(order=True)
class _Waiting:
    """A message that is tried at that time (monotonic)."""

    due: float
    number: int
    message: Message = field(compare=False)
    tries: int = field(compare=False)


class TargetSender:
    """The thread of one target. check and send are one try each; they end by themselves within a deadline."""

    def __init__(
        self,
        target: Target,
        outbox: Outbox,
        pauses: Sequence[float] = RETRY_AFTER_S,
        check: Callable[[Target], AttemptResult] = check_target,
        send: Callable[[Target, Message], AttemptResult] = send_message,
    ) -> None:
        self.target = target
        self._outbox, self._pauses, self._check, self._send = outbox, tuple(pauses), check, send
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._added = 0
        self._is_stopping = False
        # why the URL cannot be used at all
        self._unusable = ""
        self._thread = threading.Thread(target=self._run, name=f"target-{target.number}", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def add(self, message: Message, tries: int = 0) -> None:
        """Send the message as soon as possible. tries: those of an earlier process."""
        with self._changed:
            self._put(message, tries, 0.0)

    def stop(self) -> None:
        """Begin no other try."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        """Wait for the try that is under way: its result is stored, so that the next process does not repeat it."""
        self._thread.join(timeout_s)

    def _put(self, message: Message, tries: int, pause_s: float) -> None:
        self._added += 1
        heapq.heappush(self._waiting, _Waiting(time.monotonic() + pause_s, self._added, message, tries))
        self._changed.notify()

    def _run(self) -> None:
        found = self._check(self.target)
        self._unusable = found.problem if found.is_final else ""
        changes: dict[str, object] = {"shown": self.target.shown(found.service)}
        if self._unusable:
            changes["problem"] = self._unusable
            log.error("target %d, %s: %s", self.target.number, self.target.shown(), self._unusable)
        self._outbox.set_target(self.target.number, **changes)
        while (waiting := self._next()) is not None:
            self._try(waiting)

    def _next(self) -> _Waiting | None:
        """Wait for the next message that is due; None when it is time to stop."""
        with self._changed:
            while not self._is_stopping:
                pause = self._waiting[0].due - time.monotonic() if self._waiting else None
                if pause is not None and pause <= 0:
                    return heapq.heappop(self._waiting)
                self._changed.wait(pause)
        return None

    def _try(self, waiting: _Waiting) -> None:
        message, tries, number = waiting.message, waiting.tries + 1, self.target.number
        if self._unusable:
            result = AttemptResult(self._unusable, is_final=True)
        elif waiting.tries and self._outbox.is_crowded():
            result = AttemptResult(CROWDED, is_final=True)
        else:
            result = self._send(self.target, message)
        # a test shows its result at once
        gives_up = result.is_final or tries > len(self._pauses) or message.kind is NoticeKind.TEST
        state: Literal["sent", "failed", "waiting"] = (
            "sent" if not result.problem else "failed" if gives_up else "waiting"
        )
        delivery = Delivery(target=number, state=state, tries=tries, problem=result.problem)
        self._outbox.record(message, delivery)
        if state == "sent":
            self._outbox.set_target(number, problem="", sent_at=datetime.now(UTC))
            log.info("sent message=%s kind=%s target=%d", message.id, message.kind, number)
            return
        self._outbox.set_target(number, problem=result.problem)
        log.warning("not sent message=%s target=%d try=%d: %s", message.id, number, tries, result.problem)
        if state == "waiting":
            with self._changed:
                self._put(message, tries, self._pauses[tries - 1])


def first_status(
    targets: Sequence[Target], events: Sequence[NoticeKind], before: NotifierStatus | None, now: datetime
) -> NotifierStatus:
    """Return the status at a start; what is known of a target stays if its number and scheme are the same."""
    known = {one.number: one for one in before.targets} if before is not None else {}
    found = []
    for target in targets:
        old, fresh = known.get(target.number), TargetStatus(number=target.number, shown=target.shown())
        found.append(old if old is not None and fresh.shown in old.shown else fresh)
    return NotifierStatus(started_at=now, events=tuple(events), targets=tuple(found))
