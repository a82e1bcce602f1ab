"""Notices from the worker to the notifier, and the notifier's own state.

Keys in Redis (all under `bouchet:`):
    notices            stream  `body`: a Notice as JSON; appended by the worker, newest NOTICES_KEPT
    notices:known      zset    keys of notices by the time at which they were appended, newest KNOWN_KEPT
    notifier:tests     stream  one entry for each `bouchet notify test`; appended by the API, newest TESTS_KEPT
    notifier:position  hash    how far each stream was read, and the notifier's PersonState as JSON
    notifier:outbox    hash    id of a message -> MessageReport as JSON, until it is settled
    notifier:sent      stream  `body`: settled MessageReports; newest SENT_KEPT
    notifier:status    string  NotifierStatus as JSON

A notice and its key are stored in one step, so a worker that is killed appends it once or not at all. A message and the
position behind its cause are stored in one step too, so a notifier that is killed neither loses nor repeats a cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import redis

from bouchet_core.notices import MessageReport, Notice, NotifierStatus
from bouchet_core.tunnel import TunnelEvent

from .client import PREFIX, evaluate, mapped, stream_entries
from .cluster import TUNNEL_EVENTS
from .reading import read_or_skip

NOTICES_KEPT, KNOWN_KEPT, TESTS_KEPT, SENT_KEPT = 1000, 4000, 20, 50
# of messages that wait for a target; the oldest ones are given up
OUTBOX_KEPT = 100
_NOTICES, _KNOWN = PREFIX + "notices", PREFIX + "notices:known"
_TESTS, _POSITION = PREFIX + "notifier:tests", PREFIX + "notifier:position"
_OUTBOX, _SENT, _STATUS = PREFIX + "notifier:outbox", PREFIX + "notifier:sent", PREFIX + "notifier:status"
_STREAMS: Mapping[str, str] = {"notices": _NOTICES, "tunnel": TUNNEL_EVENTS, "tests": _TESTS}
_STATE = "state"
FIRST_ID = "0-0"
# before the id of the entry that a test message comes from
TEST_ID = "test-"

# KEYS: notices known   ARGV: notices_kept known_kept time (key body)...
_APPEND = """
local appended = 0
for i = 4, #ARGV, 2 do
  if redis.call('ZADD', KEYS[2], 'NX', ARGV[3], ARGV[i]) == 1 then
    redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'body', ARGV[i + 1])
    appended = appended + 1
  end
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -ARGV[2] - 1)
return appended
"""


@dataclass(frozen=True)
class NotifierEntry:
    """An entry of a stream that the notifier reads. value: None where it cannot be read; a test has none."""

    stream: str
    id: str
    value: Notice | TunnelEvent | None


@dataclass(frozen=True)
class NotifierPosition:
    """How far the notifier has read each stream; empty before its first start."""

    read: Mapping[str, str]
    state: str = ""

    @property
    def is_new(self) -> bool:
        """Whether no notifier has read anything yet."""
        return not self.read


class NoticeStore:
    """Notices, and messages about them. Methods raise StoreError subclasses."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    # the worker

    def append(self, notices: Sequence[Notice], now: datetime) -> int:
        """Append the notices whose key is new, and return how many these are."""
        if not notices:
            return 0
        pairs = [word for notice in notices for word in (notice.key, notice.model_dump_json())]
        arguments: list[str | float] = [NOTICES_KEPT, KNOWN_KEPT, now.timestamp(), *pairs]
        return int(evaluate(self._redis, _APPEND, [_NOTICES, _KNOWN], arguments))

    # the notifier

    def position(self) -> NotifierPosition:
        """Return how far the streams were read."""
        with mapped():
            found = cast("dict[str, str]", self._redis.hgetall(_POSITION))
        return NotifierPosition({name: found[name] for name in _STREAMS if name in found}, found.get(_STATE, ""))

    def ends(self) -> dict[str, str]:
        """Return the newest id of each stream."""
        with mapped():
            newest = {name: cast("Any", self._redis.xrevrange(key, count=1)) for name, key in _STREAMS.items()}
        return {name: found[0][0] if found else FIRST_ID for name, found in newest.items()}

    def wait(self, after: Mapping[str, str], wait_s: float) -> list[NotifierEntry]:
        """Return entries after these ids, those of each stream in their order.

        Waits within Redis for at most wait_s, which must be above 0 and below SOCKET_TIMEOUT_S.
        """
        streams = cast("Any", {key: after.get(name, FIRST_ID) for name, key in _STREAMS.items()})
        with mapped():
            answer = self._redis.xread(streams, count=NOTICES_KEPT, block=max(1, int(wait_s * 1000)))
        return [
            NotifierEntry(name, identity, _value_of(name, identity, fields))
            for name, key in _STREAMS.items()
            for identity, fields in stream_entries(answer, key)
        ]

    def take(self, read: Mapping[str, str], state: str, messages: Sequence[MessageReport]) -> None:
        """Store messages, how far the streams were read for them, and the state, in one step."""
        with mapped():
            pipe = self._redis.pipeline(transaction=True)
            for report in messages:
                pipe.hset(_OUTBOX, report.message.id, report.model_dump_json())
            pipe.hset(_POSITION, mapping=cast("Any", {**read, _STATE: state}))
            pipe.execute()

    def outbox(self) -> list[MessageReport]:
        """Return the messages that some target waits for, oldest first."""
        with mapped():
            bodies = cast("dict[str, str]", self._redis.hgetall(_OUTBOX))
        found = (read_or_skip(MessageReport, "message", name, body) for name, body in bodies.items())
        return sorted((one for one in found if one is not None), key=lambda one: one.message.at)

    def keep(self, report: MessageReport) -> None:
        """Store what became of a message; one that is settled moves from the outbox to the list of those sent."""
        identity, body = report.message.id, report.model_dump_json()
        with mapped():
            if not report.is_settled:
                self._redis.hset(_OUTBOX, identity, body)
                return
            pipe = self._redis.pipeline(transaction=True)
            pipe.hdel(_OUTBOX, identity)
            pipe.xadd(_SENT, {"id": identity, "body": body}, maxlen=SENT_KEPT, approximate=False)
            pipe.execute()

    def report(self, status: NotifierStatus) -> None:
        """Replace the notifier's status."""
        with mapped():
            self._redis.set(_STATUS, status.model_dump_json())

    # the API

    def status(self) -> NotifierStatus | None:
        """Return the notifier's status, None before its first start."""
        with mapped():
            body = cast("str | None", self._redis.get(_STATUS))
        return read_or_skip(NotifierStatus, "status", "of the notifier", body) if body else None

    def messages(self, limit: int) -> list[MessageReport]:
        """Return the last messages, newest first: those that wait, then those that are settled."""
        with mapped():
            entries = cast("list[tuple[str, dict[str, str]]]", self._redis.xrevrange(_SENT, count=limit))
        read = [read_or_skip(MessageReport, "message", one, fields["body"]) for one, fields in entries]
        return [*reversed(self.outbox()), *(one for one in read if one is not None)][:limit]

    def request_test(self) -> str:
        """Ask the notifier for a message to each target, and return the message's id."""
        with mapped():
            identity = cast("str", self._redis.xadd(_TESTS, {"test": ""}, maxlen=TESTS_KEPT, approximate=False))
        return f"{TEST_ID}{identity}"

    def message(self, identity: str) -> MessageReport | None:
        """Return the message of that id, None while there is none."""
        return next((one for one in self.messages(SENT_KEPT) if one.message.id == identity), None)


def _value_of(stream: str, identity: str, fields: Mapping[str, str]) -> Notice | TunnelEvent | None:
    body = fields.get("body", "")
    if stream == "notices":
        return read_or_skip(Notice, "notice", identity, body)
    return read_or_skip(TunnelEvent, "tunnel event", identity, body) if stream == "tunnel" else None
