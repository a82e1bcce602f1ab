"""Keys: of people for the proxy, of jobs for their vLLM server, and a server's proof that it holds its job's key.

A person's key holds 256 random bits, so its plain SHA-256 can neither be guessed nor found in a table: a slow, salted
hash would protect nothing more and would cost every request milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from .values import WHOLE, FrozenModel

# people and secret scanners recognise a key by this; some clients insist on `sk-`
KEY_PREFIX = "sk-bouchet-"
# the name of the key in `.env`; no other key may have it
OWNER = "owner"
# the name of the key with which the dashboard chats
DASHBOARD = "dashboard"
SHOWN_END = 4
# as in setup/files/container_files.py
CHAT_PURPOSE = "chat of the dashboard"
METRICS_PURPOSE = "metrics of a service"
ATTACH_PURPOSE = "keys of attached servers"
# before the sealed keys of attached servers, which may be any text
ATTACHED_SEAL = "attached:"
MOST_PER_MINUTE = 1_000_000_000

KeyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
PerMinute = Annotated[int, Field(ge=1, le=MOST_PER_MINUTE), WHOLE]


class ApiKey(FrozenModel):
    """The record of one key, without the key itself."""

    name: KeyName
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    ending: str = Field(default="", description="the key's last characters, to distinguish two keys")
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None
    created_at: datetime
    expires_at: datetime | None = None

    def opens_at(self, now: datetime) -> bool:
        """Return whether the key has not expired."""
        return self.expires_at is None or now < self.expires_at


def new_secret() -> str:
    """Return a new key for a person, to be shown once."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def sha256_of(secret: str) -> str:
    """Return the 64 hex characters that are stored of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def chat_key(api_key: str) -> str:
    """Derive the key with which the dashboard chats from the owner's key, which the API does not have.

    Setup gives it to the API. It opens no more of the proxy than the key of another person does.
    """
    return hmac.new(api_key.encode(), CHAT_PURPOSE.encode(), hashlib.sha256).hexdigest()


def metrics_key(service_key: str) -> str:
    """Derive the key that opens GET /metrics of a service and nothing else; setup gives it to Prometheus.

    service_key: the admin key for the API's, the owner's for the proxy's.
    """
    return hmac.new(service_key.encode(), METRICS_PURPOSE.encode(), hashlib.sha256).hexdigest()


def serving_key(serving_secret: str, job_name: str) -> str:
    """Derive the API key of one Slurm job's vLLM server: 64 hex characters.

    The worker (which stages it) and the proxy (which sends it) derive it alike, so it is stored nowhere between them,
    and the key of one job opens no other job.
    """
    return hmac.new(serving_secret.encode(), job_name.encode(), hashlib.sha256).hexdigest()


def installation_id(serving_secret: str) -> str:
    """Return 12 hex characters that identify the installation: whoever holds the same serving secret is the same one.

    Job names contain no spaces, so this input never collides with a job's key.
    """
    return hmac.new(serving_secret.encode(), b"which installation", hashlib.sha256).hexdigest()[:12]


def job_key(serving_secret: str, job_name: str, sealed: str | None) -> str:
    """Return the key of any job: derived for our own, unsealed for one adopted from another installation.

    That of an attached server is empty where it wants none: then no key is sent.
    """
    if sealed is None:
        return serving_key(serving_secret, job_name)
    if sealed.startswith(ATTACHED_SEAL):
        return _attached_key(attach_secret(serving_secret), job_name, sealed.removeprefix(ATTACHED_SEAL))
    return _xor(sealed, _pad(serving_secret, job_name))


def sealed_key(serving_secret: str, job_name: str, key: str) -> str | None:
    """Seal a job's key for its record, where it is worthless without the serving secret; None for the derived key.

    A key is 32 bytes, XORed with 32 bytes that are used for nothing else. Raises ValueError for any other key.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise ValueError("a serving key is 64 hex characters")
    if hmac.compare_digest(key, serving_key(serving_secret, job_name)):
        return None
    return _xor(key, _pad(serving_secret, job_name))


def attach_secret(serving_secret: str) -> str:
    """Derive the secret that seals the keys of attached servers. Setup gives it to the API, which takes these keys."""
    return hmac.new(serving_secret.encode(), ATTACH_PURPOSE.encode(), hashlib.sha256).hexdigest()


def seal_attached_key(secret: str, job_name: str, key: str) -> str:
    """Seal the key of an attached server for its record; empty where the server wants none.

    job_name: never used before.
    """
    return ATTACHED_SEAL + _with_stream(secret, job_name, key.encode("ascii")).hex()


def _attached_key(secret: str, job_name: str, sealed: str) -> str:
    """Return the key; with another secret than it was sealed with, a text that no server takes for its key."""
    try:
        return _with_stream(secret, job_name, bytes.fromhex(sealed)).decode("ascii")
    except ValueError:
        return "unreadable"


def _with_stream(secret: str, job_name: str, data: bytes) -> bytes:
    """Return the bytes XORed with a stream that is made for this job alone."""
    stream = b""
    while len(stream) < len(data):
        block = f"attached {job_name} {len(stream)}".encode()
        stream += hmac.new(secret.encode(), block, hashlib.sha256).digest()
    return bytes(a ^ b for a, b in zip(data, stream, strict=False))


# headers of /health: the request's nonce, and the response's proof that the server holds its job's key
NONCE_HEADER, PROOF_HEADER = "x-bouchet-nonce", "x-bouchet-proof"


def new_nonce() -> str:
    """Return a random nonce for one proof."""
    return secrets.token_hex(16)


def proves(key: str, nonce: str, port: int, proof: str | None) -> bool:
    """Return whether the proof is that of a holder of the key, listening on that port, for that nonce."""
    message = f"bouchet-proof {port} {nonce}".encode()
    expected = hmac.new(key.encode(), message, hashlib.sha256).hexdigest()
    return proof is not None and hmac.compare_digest(expected.encode(), proof.encode("utf-8", "replace"))


def _pad(serving_secret: str, job_name: str) -> str:
    return hmac.new(serving_secret.encode(), b"adopted " + job_name.encode(), hashlib.sha256).hexdigest()


def _xor(one: str, other: str) -> str:
    return bytes(a ^ b for a, b in zip(bytes.fromhex(one), bytes.fromhex(other), strict=True)).hex()
