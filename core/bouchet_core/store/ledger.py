"""What waits to be taken into the ledger, and how far each live job has been measured.

Keys in Redis:
    ledger:requests  stream  fields of a UsageRecord; appended by the proxy (usage.py)
    ledger:jobs      stream  `body`: a JobEntry or an AccountingEntry as JSON; appended by the worker
    ledger:measured  hash    name of a job -> JobMeasure as JSON; the worker's own

The API reads both streams as a consumer group: an entry is its own until it is acknowledged, also after it was killed,
and is removed only then. Both streams are bounded: while nothing takes entries, the oldest are dropped at last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis
from redis.exceptions import ResponseError

from bouchet_core.ledger import AccountingEntry, JobEntry, JobMeasure

from .client import PREFIX, mapped
from .reading import read_or_skip

REQUESTS, JOBS = PREFIX + "ledger:requests", PREFIX + "ledger:jobs"
_MEASURED = PREFIX + "ledger:measured"
# a job appends some ten entries in its life, and two more whenever it becomes idle
JOB_ENTRIES_KEPT = 20_000
GROUP, CONSUMER = "ledger", "api"


@dataclass(frozen=True)
class WaitingEntry:
    """An entry of a stream. fields: None where it was dropped before it was acknowledged."""

    stream: str
    id: str
    fields: Mapping[str, str] | None


class LedgerStore:
    """The streams of the ledger. Methods raise StoreError subclasses."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    # the worker

    def measured(self) -> dict[str, JobMeasure]:
        """Return how far each live job has been measured, by name."""
        with mapped():
            bodies = cast("dict[str, str]", self._redis.hgetall(_MEASURED))
        found = {name: read_or_skip(JobMeasure, "measure", name, body) for name, body in bodies.items()}
        return {name: measure for name, measure in found.items() if measure is not None}

    def append(
        self,
        entries: Iterable[JobEntry | AccountingEntry],
        measured: Mapping[str, JobMeasure] | None = None,
        forgotten: Sequence[str] = (),
    ) -> None:
        """Append entries and store the measures that they come from, in one step; forget those of these jobs."""
        with mapped():
            pipe = self._redis.pipeline(transaction=True)
            for entry in entries:
                body = cast("Any", {"body": entry.model_dump_json()})
                pipe.xadd(JOBS, body, maxlen=JOB_ENTRIES_KEPT, approximate=True)
            if measured:
                pipe.hset(_MEASURED, mapping=cast("Any", {k: m.model_dump_json() for k, m in measured.items()}))
            if forgotten:
                pipe.hdel(_MEASURED, *forgotten)
            pipe.execute()

    # the API

    def pending(self, count: int) -> list[WaitingEntry]:
        """Return the oldest entries that were read and not acknowledged, also by a process that was killed."""
        return self._read("0", count, None)

    def wait(self, count: int, wait_s: float) -> list[WaitingEntry]:
        """Return new entries, after at most wait_s without any."""
        return self._read(">", count, wait_s)

    def acknowledge(self, entries: Iterable[WaitingEntry]) -> None:
        """Remove entries that are in the ledger."""
        ids: dict[str, list[str]] = {}
        for entry in entries:
            ids.setdefault(entry.stream, []).append(entry.id)
        with mapped():
            pipe = self._redis.pipeline(transaction=True)
            for stream, members in ids.items():
                pipe.xack(stream, GROUP, *members)
                pipe.xdel(stream, *members)
            pipe.execute()

    def waiting(self) -> int:
        """Return how many entries are in no ledger yet."""
        with mapped():
            return int(self._redis.xlen(REQUESTS)) + int(self._redis.xlen(JOBS))

    def _read(self, after: str, count: int, wait_s: float | None) -> list[WaitingEntry]:
        block = None if wait_s is None else max(1, round(wait_s * 1000))
        found = self._with_groups(
            lambda: self._redis.xreadgroup(
                GROUP, CONSUMER, cast("Any", {REQUESTS: after, JOBS: after}), count=count, block=block
            )
        )
        # RESP3 has a map of streams, RESP2 a list of pairs
        pairs = found.items() if isinstance(found, dict) else (found or ())
        return [
            WaitingEntry(stream, identity, fields or None)
            for stream, batches in pairs
            for identity, fields in _entries_of(batches)
        ]

    def _with_groups(self, read: Callable[[], Any]) -> Any:
        """Read, after making the group where there is none: at first, and after Redis was emptied."""
        with mapped():
            try:
                return read()
            except ResponseError as exc:
                _check_emptied(exc)
            for stream in (REQUESTS, JOBS):
                try:
                    self._redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
                except ResponseError as exc:
                    if not str(exc).startswith("BUSYGROUP"):
                        raise
            try:
                return read()
            except ResponseError as exc:
                # emptied once more meanwhile: nothing waits
                _check_emptied(exc)
                return None


def _check_emptied(exc: ResponseError) -> None:
    """Raise the error unless it says that there is no group, or no stream any more."""
    if not str(exc).startswith(("NOGROUP", "UNBLOCKED")):
        raise exc


def _entries_of(batches: Any) -> Iterable[tuple[str, Mapping[str, str] | None]]:
    """Return the entries of one stream; RESP3 wraps them in one more list."""
    for item in batches:
        if isinstance(item, (list, tuple)) and item and isinstance(item[0], (list, tuple)):
            yield from _entries_of(item)
        else:
            yield item[0], item[1]
