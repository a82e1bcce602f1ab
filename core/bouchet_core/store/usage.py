"""Usage: the last requests one by one, and sums over a longer time.

Keys in Redis:
    usage:requests    stream  one entry a request, newest REQUESTS_KEPT
    usage:sum:<time>  hash    `<by>|<name>|<count>` -> number, for BUCKET_S from that Unix time on; kept SUMS_KEPT_S
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, cast

import redis

from bouchet_core.usage import UsageBy, UsageRecord, UsageSummary, summary_of, sums_of

from .records import PREFIX, mapped

REQUESTS_KEPT = 20_000
BUCKET_S = 15 * 60
SUMS_KEPT_S = 31 * 24 * 3600

_REQUESTS, _SUM = PREFIX + "usage:requests", PREFIX + "usage:sum:"


class UsageStore:
    """Usage records and their sums. Methods raise StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def add(self, records: Sequence[UsageRecord]) -> None:
        """Store records and add them to the sums, in one round trip."""
        with mapped():
            pipe = self._redis.pipeline(transaction=False)
            for record in records:
                fields = {name: "" if value is None else value for name, value in asdict(record).items()}
                pipe.xadd(_REQUESTS, cast("Any", fields), maxlen=REQUESTS_KEPT, approximate=True)
            ordered = sorted(records, key=lambda record: record.at)
            for bucket, members in groupby(ordered, key=lambda record: bucket_of(record.at)):
                key = f"{_SUM}{bucket}"
                for (by, name), counts in sums_of(members).items():
                    for count, number in counts.items():
                        pipe.hincrby(key, f"{by}|{name}|{count}", number)
                pipe.expire(key, SUMS_KEPT_S)
            pipe.execute()

    def summaries(self, by: UsageBy, since: float, now: float) -> list[UsageSummary]:
        """Return sums from the bucket of `since` until now (Unix times), the most tokens first."""
        oldest = max(bucket_of(since), bucket_of(now - SUMS_KEPT_S))
        with mapped():
            pipe = self._redis.pipeline(transaction=False)
            for bucket in range(oldest, bucket_of(now) + 1, BUCKET_S):
                pipe.hgetall(f"{_SUM}{bucket}")
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


def bucket_of(at: float) -> int:
    """Return the Unix time at which the bucket of that moment began."""
    return int(at) // BUCKET_S * BUCKET_S


def _busiest_first(summary: UsageSummary) -> tuple[int, int, str]:
    return -(summary.input_tokens + summary.output_tokens), -summary.requests, summary.name
