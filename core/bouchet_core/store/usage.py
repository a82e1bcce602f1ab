"""Usage: the last requests one by one, and sums over a longer time.

Keys in Redis:
    ledger:requests   stream  one entry a request, newest REQUESTS_KEPT; the API takes them into the ledger (ledger.py)
    usage:sum:<time>  hash    `<by>|<name>|<count>` -> number, for BUCKET_S from that Unix time on; kept SUMS_KEPT_S
    usage:sessions:<time>        hash  `session|<name>|<count>` -> number; kept SESSIONS_KEPT_S
    usage:session-counts:<time>  hash  key -> number of its sessions in the other hash, at most SESSIONS_PER_KEY

How much of this there is depends on clients, and it shares its memory with the records: it is limited, and nothing is
written while Redis uses more than MEMORY_SHARE of what it may use.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, cast

import redis

from bouchet_core.usage import UsageBy, UsageRecord, UsageSummary, session_sums_of, summary_of, sums_of

from .records import PREFIX, mapped

log = logging.getLogger(__name__)

# some 400 bytes each; what waits while the ledger's database is away
REQUESTS_KEPT = 50_000
BUCKET_S = 15 * 60
SUMS_KEPT_S = 31 * 24 * 3600
SESSIONS_KEPT_S = 24 * 3600
# of one key in one bucket; further sessions are summed under OTHER_SESSIONS
SESSIONS_PER_KEY = 100
OTHER_SESSIONS = "other"
# records and leases must always fit
MEMORY_SHARE = 0.6

_REQUESTS, _SUM = PREFIX + "ledger:requests", PREFIX + "usage:sum:"
_SESSIONS, _SESSION_COUNTS = PREFIX + "usage:sessions:", PREFIX + "usage:session-counts:"

# KEYS: sessions counts   ARGV: key session most other ttl_s (count number)...
_ADD_SESSION = """
local name = ARGV[2]
if redis.call('HEXISTS', KEYS[1], 'session|' .. name .. '|requests') == 0 then
  local known = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
  if known < tonumber(ARGV[3]) then redis.call('HSET', KEYS[2], ARGV[1], known + 1) else name = ARGV[4] end
end
for i = 6, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], 'session|' .. name .. '|' .. ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[5])
"""


class UsageStore:
    """Usage records and their sums. Methods raise StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._had_memory = True

    def add(self, records: Sequence[UsageRecord]) -> None:
        """Store records and add them to the sums; drop them while Redis is short of memory."""
        if not self._has_memory():
            return
        with mapped():
            pipe = self._redis.pipeline(transaction=False)
            for record in records:
                fields = {name: "" if value is None else value for name, value in asdict(record).items()}
                pipe.xadd(_REQUESTS, cast("Any", fields), maxlen=REQUESTS_KEPT, approximate=True)
            ordered = sorted(records, key=lambda record: record.at)
            for bucket, grouped in groupby(ordered, key=lambda record: bucket_of(record.at)):
                key, members = f"{_SUM}{bucket}", list(grouped)
                for (by, name), counts in sums_of(members).items():
                    for count, number in counts.items():
                        pipe.hincrby(key, f"{by}|{name}|{count}", number)
                pipe.expire(key, SUMS_KEPT_S)
                for (owner, session), counts in session_sums_of(members).items():
                    pipe.eval(_ADD_SESSION, 2, *_session_keys(bucket), *_session_arguments(owner, session, counts))
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

    def summaries(self, by: UsageBy, since: float, now: float) -> list[UsageSummary]:
        """Return sums from the bucket of `since` until now (Unix times), the most tokens first."""
        oldest = max(bucket_of(since), bucket_of(now - kept_s(by)))
        with mapped():
            pipe = self._redis.pipeline(transaction=False)
            for bucket in range(oldest, bucket_of(now) + 1, BUCKET_S):
                pipe.hgetall(f"{_SESSIONS if by is UsageBy.SESSION else _SUM}{bucket}")
            buckets = cast("list[dict[str, str]]", pipe.execute())
        sums: dict[str, Counter[str]] = {}
        for bucket_sums in buckets:
            for field, number in bucket_sums.items():
                kind, _, rest = field.partition("|")
                name, _, count = rest.rpartition("|")
                if kind == by:
                    sums.setdefault(name, Counter())[count] += int(number)
        return sorted((summary_of(name, counts) for name, counts in sums.items()), key=_busiest_first)

    def last(self, limit: int = 100) -> list[dict[str, str]]:
        """Return the fields of the last requests, newest first."""
        with mapped():
            entries = cast("list[tuple[str, dict[str, str]]]", self._redis.xrevrange(_REQUESTS, count=limit))
        return [fields for _, fields in entries]


def kept_s(by: UsageBy) -> int:
    """Return how long sums by that are kept, in seconds."""
    return SESSIONS_KEPT_S if by is UsageBy.SESSION else SUMS_KEPT_S


def bucket_of(at: float) -> int:
    """Return the Unix time at which the bucket of that moment began."""
    return int(at) // BUCKET_S * BUCKET_S


def _session_keys(bucket: int) -> tuple[str, str]:
    return f"{_SESSIONS}{bucket}", f"{_SESSION_COUNTS}{bucket}"


def _session_arguments(key: str, session: str, counts: Mapping[str, int]) -> list[str | int]:
    pairs = [word for pair in counts.items() for word in pair]
    return [key, session, SESSIONS_PER_KEY, OTHER_SESSIONS, SESSIONS_KEPT_S, *pairs]


def _busiest_first(summary: UsageSummary) -> tuple[int, int, str]:
    return -(summary.input_tokens + summary.output_tokens), -summary.requests, summary.name
