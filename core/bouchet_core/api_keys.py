"""Keys that open the proxy beside the owner's own: what is kept of them, and how one is made.

A key holds 256 random bits, so its plain SHA-256 can neither be guessed nor looked up in a table: a slow, salted hash
would protect nothing more, and would cost every request milliseconds.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from .base import FrozenModel

# people and scanners for leaked secrets know it by this; some clients insist on `sk-`
KEY_PREFIX = "sk-bouchet-"
# the key of `.env`; no other key may have this name
OWNER = "owner"
SHOWN_END = 4
MOST_PER_MINUTE = 1_000_000_000

KeyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
PerMinute = Annotated[int, Field(ge=1, le=MOST_PER_MINUTE)]


class ApiKey(FrozenModel):
    """One key as it is kept: never the key itself."""

    name: KeyName
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    ending: str = Field(description="the key's last characters, to tell two keys apart")
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None
    created_at: datetime
    expires_at: datetime | None = None

    def opens_at(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


def new_secret() -> str:
    """A fresh key, to be shown once."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def sha256_of(secret: str) -> str:
    """What is kept of a key: 64 hex characters."""
    return hashlib.sha256(secret.encode()).hexdigest()
