"""API keys of clients, and their rate limits: two token buckets per key. Pure: time is an argument.

A bucket holds one minute's worth. What a request costs is not known before its end, so it is admitted while anything is
left, charged an estimate, and settled at its end: a bucket may be overdrawn, and then the next request has to wait.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import parse_qsl

from bouchet_core.keys import DASHBOARD, OWNER, ApiKey, chat_key, metrics_key

from bouchet_proxy.asgi import Header, Scope

MINUTE_S = 60.0
# limit, what remains, when the bucket is full again
ANTHROPIC_HEADERS = (
    b"anthropic-ratelimit-%s-limit",
    b"anthropic-ratelimit-%s-remaining",
    b"anthropic-ratelimit-%s-reset",
)
OPENAI_HEADERS = (b"x-ratelimit-limit-%s", b"x-ratelimit-remaining-%s", b"x-ratelimit-reset-%s")


KEY_HEADERS = (b"x-api-key", b"api-key", b"x-goog-api-key")
# the paths of a dialect whose clients may send `?key=KEY`; the query of no request is logged
KEY_IN_QUERY = ("/v1beta/", "/v1alpha/", "/v1/models/", "/v1/v1beta/")
# as many as a request may carry
MAX_CREDENTIALS = 8
# what is copied with a key from web pages and documents: no-break spaces, spaces without width, a byte order mark
_PASTED = re.compile(rb"\xc2?\xa0|\xe2\x80[\x80-\x8f\xa8-\xaf]|\xe2\x81\xa0|\xef\xbb\xbf")
# white space and quotes around a key; `Bearer`, also twice or with a colon
_AROUND = b" \t\r\n\x0b\x0c\"'"
_BEARER = re.compile(rb"^(?:bearer(?=[\s:=]|$)[\s:=]*)+", re.IGNORECASE)


def credentials(scope: Scope) -> list[bytes]:
    """Return all keys in the headers of a request, without the white space around them; Gemini's also in the query.

    Some clients send a token of their own beside the key that a person gave them.
    """
    found: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"authorization" or name in KEY_HEADERS:
            found += _keys_of(value)
    if scope.get("path", "").startswith(KEY_IN_QUERY):
        pairs = parse_qsl(scope.get("query_string", b""))
        found += [key for name, value in pairs if name == b"key" for key in _keys_of(value)]
    return found[:MAX_CREDENTIALS]


def _keys_of(value: bytes) -> list[bytes]:
    """Return the keys in the value of a header: people paste one with `Bearer` and without, and a client adds its own.

    Another scheme has none. Programs on the way join two headers of one name with a comma.
    """
    text = _PASTED.sub(b" ", value)
    parts = [text, *text.split(b",")] if b"," in text else [text]
    keys = [_BEARER.sub(b"", part.strip(_AROUND)).strip(_AROUND) for part in parts]
    return [key for key in keys if len(key.split()) == 1]


class RateLimitExceededError(Exception):
    """A request was not admitted. what: the limit that is used up, "requests" or "tokens"."""

    def __init__(self, what: str, per_minute: int, retry_after_s: int) -> None:
        self.what, self.per_minute, self.retry_after_s = what, per_minute, retry_after_s
        super().__init__(f"{per_minute} {what} per minute; retry in {retry_after_s} s")


class TokenBucket:
    """per_minute flows in evenly, and no more than that fits. now: seconds of a monotonic clock."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self.level = float(per_minute)
        self._filled_at = now

    def fill(self, now: float) -> None:
        """Add what has flowed in since the last call."""
        gained = (now - self._filled_at) * self.per_minute / MINUTE_S
        self.level, self._filled_at = min(float(self.per_minute), self.level + gained), now

    def wait_s(self, wanted: float) -> float:
        """Return the seconds until the level is that high."""
        return max(0.0, wanted - self.level) * MINUTE_S / self.per_minute


class RateLimiter:
    """The limits of one key; None is no limit."""

    def __init__(self, requests: int | None, tokens: int | None, now: float) -> None:
        self._requests = TokenBucket(requests, now) if requests else None
        self._tokens = TokenBucket(tokens, now) if tokens else None

    def admit(self, estimated_tokens: int | None, now: float) -> None:
        """Charge one request and that many tokens, or nothing and raise RateLimitExceededError.

        None: the request uses no tokens, and is admitted even while there are none left.
        """
        for bucket, what in ((self._requests, "requests"), (self._tokens, "tokens")):
            if bucket is not None and (what == "requests" or estimated_tokens is not None):
                bucket.fill(now)
                if (wait_s := bucket.wait_s(1.0)) > 0:
                    raise RateLimitExceededError(what, bucket.per_minute, max(1, math.ceil(wait_s)))
        if self._requests is not None:
            self._requests.level -= 1
        if self._tokens is not None:
            self._tokens.level -= estimated_tokens or 0

    def settle(self, estimated_tokens: int, used_tokens: int) -> None:
        """Replace the estimate of a request that has ended by what it used."""
        if self._tokens is not None:
            self._tokens.level += estimated_tokens - used_tokens

    def headers(self, anthropic: bool, now: float, unix_now: float) -> list[Header]:
        """Return what remains, in the headers of the dialect's own service."""
        lines: list[Header] = []
        for bucket, what in ((self._requests, b"requests"), (self._tokens, b"tokens")):
            if bucket is not None:
                bucket.fill(now)
                full_in_s = math.ceil(bucket.wait_s(bucket.per_minute))
                reset = _rfc3339(math.ceil(unix_now) + full_in_s) if anthropic else b"%ds" % full_in_s
                names = ANTHROPIC_HEADERS if anthropic else OPENAI_HEADERS
                values = (b"%d" % bucket.per_minute, b"%d" % max(0, math.floor(bucket.level)), reset)
                lines += [(name % what, value) for name, value in zip(names, values, strict=True)]
        return lines


@lru_cache(maxsize=256)
def _rfc3339(unix: int) -> bytes:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a key. limiter: its rate limits, None without any; expires_at: Unix time."""

    name: str
    limiter: RateLimiter | None = None
    expires_at: float | None = None

    @property
    def is_owner(self) -> bool:
        """Whether this is the key of `.env`."""
        return self.name == OWNER


def cache_salt(caller: Caller, secret: str) -> str | None:
    """Return what keeps a caller's prompts apart in a model's prefix cache; None for the owner, who shares with no one.

    How quickly a prompt is answered tells whether it was sent before. With a salt it tells that only of the
    caller's own prompts.
    """
    if caller.is_owner:
        return None
    return hmac.new(secret.encode(), b"prefix cache of " + caller.name.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class KeyTable:
    """The owner's key, the dashboard's, which is derived from it, and the hashes of all other keys.

    The time that a look-up in a table of hashes takes reveals nothing: a client cannot choose how a hash begins.
    """

    owner_key: bytes = field(repr=False)
    owner: Caller = Caller(OWNER)
    others: Mapping[bytes, tuple[ApiKey, Caller]] = field(default_factory=dict)
    dashboard: Caller = Caller(DASHBOARD)

    def find(self, key: bytes, unix_now: float) -> Caller | None:
        """Return the holder of that key; None for a wrong, revoked or expired one."""
        if hmac.compare_digest(key, self.owner_key):
            return self.owner
        if hmac.compare_digest(key, _chat_key(self.owner_key)):
            return self.dashboard
        if not self.others:
            return None
        found = self.others.get(hashlib.sha256(key).digest())
        if found is None or (found[1].expires_at is not None and unix_now >= found[1].expires_at):
            return None
        return found[1]

    def opens_metrics(self, key: bytes) -> bool:
        """Return whether it is Prometheus' key, which is derived from the owner's and opens no other path."""
        return hmac.compare_digest(key, _metrics_key(self.owner_key))

    def with_keys(self, keys: Iterable[ApiKey], clock: Callable[[], float]) -> KeyTable:
        """Return the table of these keys; an unchanged key keeps its limiter, and so what it has used."""
        others = {bytes.fromhex(key.sha256): (key, self._caller(key, clock)) for key in keys}
        return KeyTable(self.owner_key, self.owner, others)

    def _caller(self, key: ApiKey, clock: Callable[[], float]) -> Caller:
        known = self.others.get(bytes.fromhex(key.sha256))
        if known is not None and known[0] == key:
            return known[1]
        limited = key.requests_per_minute or key.tokens_per_minute
        limiter = RateLimiter(key.requests_per_minute, key.tokens_per_minute, clock()) if limited else None
        return Caller(key.name, limiter, _unix_time(key.expires_at))


@lru_cache(maxsize=8)
def _chat_key(owner_key: bytes) -> bytes:
    return chat_key(owner_key.decode("utf-8", "replace")).encode()


@lru_cache(maxsize=8)
def _metrics_key(owner_key: bytes) -> bytes:
    return metrics_key(owner_key.decode("utf-8", "replace")).encode()


def _unix_time(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
