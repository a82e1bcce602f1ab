"""Secrets: files of mode 0600, and the key that guards one job's vLLM."""

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from .errors import ConfigurationError


def read_secret(directory: Path, name: str) -> str:
    """The secret `name` of `directory` (container secrets lie in /run/secrets), without the final newline."""
    path = directory / name
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigurationError(str(path), f"secret cannot be read ({exc.strerror}); run `make up` again") from exc
    if not secret:
        raise ConfigurationError(str(path), "secret is empty; delete it and run `make up` again")
    return secret


def optional_secret(directory: Path, name: str) -> str | None:
    """The secret `name` of `directory`, None where there is none or an empty one."""
    path = directory / name
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigurationError(str(path), f"secret cannot be read ({exc.strerror}); run `make up` again") from exc


def serving_key(serving_secret: str, job_name: str) -> str:
    """The API key that guards the vLLM of one Slurm job, 64 hex characters.

    Derived, so that the worker (which stages it) and the proxy (which sends it) agree without storing it
    anywhere between them, and one job's key opens no other job.
    """
    return hmac.new(serving_secret.encode(), job_name.encode(), hashlib.sha256).hexdigest()


def installation_id(serving_secret: str) -> str:
    """Who launched a job, 12 hex characters: whoever holds the same serving secret is the same installation.

    Job names hold no spaces, so this is no part of any job's key.
    """
    return hmac.new(serving_secret.encode(), b"which installation", hashlib.sha256).hexdigest()[:12]


def job_key(serving_secret: str, job_name: str, sealed: str | None) -> str:
    """The key of any job: derived for our own, unsealed for one taken over from another installation."""
    if sealed is None:
        return serving_key(serving_secret, job_name)
    return _xor(sealed, _pad(serving_secret, job_name))


def sealed_key(serving_secret: str, job_name: str, key: str) -> str | None:
    """A job's key as a record may hold it: worthless without the serving secret. None where it is the derived one.

    A key of ours is 32 bytes, XORed with 32 bytes that nothing else is XORed with. ValueError for another key.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise ValueError("a serving key is 64 hex characters")
    if hmac.compare_digest(key, serving_key(serving_secret, job_name)):
        return None
    return _xor(key, _pad(serving_secret, job_name))


# a server's proof that it holds its job's key: asked for in the one header of /health, given in the other
NONCE_HEADER, PROOF_HEADER = "x-bouchet-nonce", "x-bouchet-proof"


def new_nonce() -> str:
    """What to ask for a proof with; never twice the same."""
    return secrets.token_hex(16)


def proves(key: str, nonce: str, port: int, proof: str | None) -> bool:
    """Whether the proof is the one that the holder of the key gives for that nonce, listening on that port."""
    words = f"bouchet-proof {port} {nonce}".encode()
    wanted = hmac.new(key.encode(), words, hashlib.sha256).hexdigest()
    return proof is not None and hmac.compare_digest(wanted.encode(), proof.encode("utf-8", "replace"))


def _pad(serving_secret: str, job_name: str) -> str:
    return hmac.new(serving_secret.encode(), b"adopted " + job_name.encode(), hashlib.sha256).hexdigest()


def _xor(one: str, other: str) -> str:
    return bytes(a ^ b for a, b in zip(bytes.fromhex(one), bytes.fromhex(other), strict=True)).hex()
