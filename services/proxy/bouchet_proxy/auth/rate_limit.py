"""How much one key may still ask for: two buckets that fill by the second. Pure: the time is handed in.

A bucket holds a minute's worth. What a request will cost is not known before its end, so it is admitted while there is
anything left, charged a guess, and settled when it has ended: a bucket may be in debt, and then the next one waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from bouchet_proxy.asgi import Header

MINUTE_S = 60.0
# limit, what is left, when the bucket is full again
ANTHROPIC = (b"anthropic-ratelimit-%s-limit", b"anthropic-ratelimit-%s-remaining", b"anthropic-ratelimit-%s-reset")
OPENAI = (b"x-ratelimit-limit-%s", b"x-ratelimit-remaining-%s", b"x-ratelimit-reset-%s")


class Bucket:
    """per_minute flows in evenly; no more than that fits. now: seconds of a clock that only runs forward."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self.level = float(per_minute)
        self._filled_at = now

    def fill(self, now: float) -> None:
        """What has flowed in since the last time."""
        gained = (now - self._filled_at) * self.per_minute / MINUTE_S
        self.level, self._filled_at = min(float(self.per_minute), self.level + gained), now

    def wait_s(self, wanted: float) -> float:
        """Seconds until that much is in."""
        return max(0.0, wanted - self.level) * MINUTE_S / self.per_minute


@dataclass(frozen=True, slots=True)
class TooMuch:
    """A request that was not admitted: which bucket was empty, and when it is worth trying again."""

    what: str
    per_minute: int
    retry_after_s: int


class Meter:
    """The limits of one key; None is no limit."""

    def __init__(self, requests: int | None, tokens: int | None, now: float) -> None:
        self._requests = Bucket(requests, now) if requests else None
        self._tokens = Bucket(tokens, now) if tokens else None

    def admit(self, guess: int, now: float) -> TooMuch | None:
        """Takes one request and that many tokens, or nothing at all."""
        for bucket, what in ((self._requests, "requests"), (self._tokens, "tokens")):
            if bucket is not None:
                bucket.fill(now)
                if (wait_s := bucket.wait_s(1.0)) > 0:
                    return TooMuch(what, bucket.per_minute, max(1, math.ceil(wait_s)))
        if self._requests is not None:
            self._requests.level -= 1
        if self._tokens is not None:
            self._tokens.level -= guess
        return None

    def settle(self, guess: int, used: int) -> None:
        """The request has ended: what it really took."""
        if self._tokens is not None:
            self._tokens.level += guess - used

    def headers(self, anthropic: bool, now: float, unix_now: float) -> list[Header]:
        """What is left, in the words of the dialect's own service."""
        lines: list[Header] = []
        for bucket, what in ((self._requests, b"requests"), (self._tokens, b"tokens")):
            if bucket is not None:
                bucket.fill(now)
                full_in_s = math.ceil(bucket.wait_s(bucket.per_minute))
                reset = _clock(math.ceil(unix_now) + full_in_s) if anthropic else b"%ds" % full_in_s
                words = ANTHROPIC if anthropic else OPENAI
                values = (b"%d" % bucket.per_minute, b"%d" % _left(bucket), reset)
                lines += [(word % what, value) for word, value in zip(words, values, strict=True)]
        return lines


@lru_cache(maxsize=256)
def _clock(unix: int) -> bytes:
    """That second as RFC 3339 writes it."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def _left(bucket: Bucket) -> int:
    return max(0, math.floor(bucket.level))
