"""Asking again while the API restarts: whoever watches something should not lose sight of it for that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from .errors import CommandError, UnreachableError

POLL_S = 0.5
# the API may be away for so long (a restart) before watching gives up
PATIENCE_S = 60.0

Answer = TypeVar("Answer")


def patiently(ask: Callable[[], Answer]) -> Answer:
    """What `ask` answers; where API or Redis is away it is asked again for PATIENCE_S. Raises CommandError."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except CommandError as exc:
            passing = isinstance(exc, UnreachableError) or exc.kind == "store_unavailable"
            if not passing or exc.kind == "unauthorized" or time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
