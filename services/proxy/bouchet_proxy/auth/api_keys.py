"""The API keys that open this proxy, as a table in memory. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from bouchet_core.keys import OWNER, ApiKey

from .rate_limit import RateLimiter


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


@dataclass(frozen=True)
class KeyTable:
    """The owner's key, and the hashes of all other keys.

    The time that a look-up in a table of hashes takes reveals nothing: a client cannot choose how a hash begins.
    """

    owner_key: bytes = field(repr=False)
    owner: Caller = Caller(OWNER)
    others: Mapping[bytes, tuple[ApiKey, Caller]] = field(default_factory=dict)

    def find(self, key: bytes, unix_now: float) -> Caller | None:
        """Return the holder of that key; None for a wrong, revoked or expired one."""
        if hmac.compare_digest(key, self.owner_key):
            return self.owner
        if not self.others:
            return None
        found = self.others.get(hashlib.sha256(key).digest())
        if found is None or (found[1].expires_at is not None and unix_now >= found[1].expires_at):
            return None
        return found[1]

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


def _unix_time(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
