"""Secrets: files of mode 0600, and the key that guards one job's vLLM."""

import hashlib
import hmac
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


def serving_key(serving_secret: str, job_name: str) -> str:
    """The API key that guards the vLLM of one Slurm job, 64 hex characters.

    Derived, so that the worker (which stages it) and the proxy (which sends it) agree without storing it
    anywhere between them, and one job's key opens no other job.
    """
    return hmac.new(serving_secret.encode(), job_name.encode(), hashlib.sha256).hexdigest()
