"""Usage: one entry for each request, which the API takes into the ledger; sums are the ledger's alone.

Keys in Redis:
    ledger:requests   stream  one entry a request, newest REQUESTS_KEPT; the API takes them into the ledger (ledger.py)

How many there are depends on clients, and the stream shares its memory with the records: it is limited, and nothing is
written while Redis uses more than MEMORY_SHARE of what it may use.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

import redis

from bouchet_core.usage import UsageRecord

from .client import PREFIX, mapped

log = logging.getLogger(__name__)

# some 400 bytes each; what waits while the ledger's database is away
REQUESTS_KEPT = 50_000
# records and leases must always fit
MEMORY_SHARE = 0.6

_REQUESTS = PREFIX + "ledger:requests"
_FIELDS = tuple(field.name for field in fields(UsageRecord))


class UsageStore:
    """The requests that wait for the ledger. Methods raise StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._had_memory = True

    def add(self, records: Sequence[UsageRecord]) -> None:
        """Append records; drop them while Redis is short of memory."""
        if not self._has_memory():
            return
        with mapped():
            pipe = self._redis.pipeline(transaction=False)
            for record in records:
                values = {name: "" if (value := getattr(record, name)) is None else value for name in _FIELDS}
                pipe.xadd(_REQUESTS, cast("Any", values), maxlen=REQUESTS_KEPT, approximate=True)
            pipe.execute()

    def memory(self) -> tuple[int, int]:
        """Return the bytes that Redis uses, and those that it may use; 0: no limit."""
        with mapped():
            found = cast("dict[str, int]", self._redis.info("memory"))
        return int(found["used_memory"]), int(found["maxmemory"])

    def _has_memory(self) -> bool:
        used, most = self.memory()
        has_memory = not most or used <= most * MEMORY_SHARE
        if has_memory is not self._had_memory:
            what = "is recorded again" if has_memory else "is not recorded until it uses less"
            log.warning("Redis uses %d of %d MiB: usage %s", used >> 20, most >> 20, what)
        self._had_memory = has_memory
        return has_memory

    def last(self, limit: int = 100) -> list[dict[str, str]]:
        """Return the fields of the last requests, newest first."""
        with mapped():
            entries = cast("list[tuple[str, dict[str, str]]]", self._redis.xrevrange(_REQUESTS, count=limit))
        return [fields for _, fields in entries]
