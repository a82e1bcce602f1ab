"""Who asks: the keys that open this proxy, as a table in memory. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from bouchet_core.keys import OWNER, ApiKey

from .rate_limit import Meter


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a key. meter: its limits, None without any; expires_at: Unix time."""

    name: str
    meter: Meter | None = None
    expires_at: float | None = None

    @property
    def owner(self) -> bool:
        """Whether this is the key of `.env`."""
        return self.name == OWNER


@dataclass(frozen=True)
class KeyTable:
    """Hashes of the keys that others hold, and the owner's own key.

    A table of hashes gives nothing away by the time its look-up takes: nobody can choose what a hash begins with.
    """

    owner_key: bytes = field(repr=False)
    owner: Caller = Caller(OWNER)
    others: Mapping[bytes, tuple[ApiKey, Caller]] = field(default_factory=dict)

    def find(self, given: bytes, unix_now: float) -> Caller | None:
        """Who holds that key; None for a wrong, revoked or expired one."""
        if hmac.compare_digest(given, self.owner_key):
            return self.owner
        if not self.others:
            return None
        found = self.others.get(hashlib.sha256(given).digest())
        if found is None or (found[1].expires_at is not None and unix_now >= found[1].expires_at):
            return None
        return found[1]

    def renewed(self, keys: Iterable[ApiKey], clock: Callable[[], float]) -> KeyTable:
        """The table of these keys; a key that has not changed keeps its meter as it stands."""
        others = {bytes.fromhex(key.sha256): (key, self._caller(key, clock)) for key in keys}
        return KeyTable(self.owner_key, self.owner, others)

    def _caller(self, key: ApiKey, clock: Callable[[], float]) -> Caller:
        known = self.others.get(bytes.fromhex(key.sha256))
        if known is not None and known[0] == key:
            return known[1]
        limited = key.requests_per_minute or key.tokens_per_minute
        meter = Meter(key.requests_per_minute, key.tokens_per_minute, clock()) if limited else None
        return Caller(key.name, meter, _unix(key.expires_at))


def _unix(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
