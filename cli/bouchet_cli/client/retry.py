"""Repeat requests while the API restarts, and submit a launch exactly once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from .api import ApiClient
from .deployments import DeploymentInfo
from .errors import CommandError, UnreachableError

RETRY_INTERVAL_S = 0.5
# how long the API may be away, for example during a restart
RETRY_FOR_S = 60.0
STORE_UNAVAILABLE = "store_unavailable"

Answer = TypeVar("Answer")


def retry_while_unavailable(request: Callable[[], Answer]) -> Answer:
    """Return the answer of `request`, repeated for RETRY_FOR_S while the API or Redis is down. Raises CommandError."""
    deadline = time.monotonic() + RETRY_FOR_S
    while True:
        try:
            return request()
        except CommandError as exc:
            temporary = isinstance(exc, UnreachableError) or exc.kind == STORE_UNAVAILABLE
            if not temporary or exc.kind == "unauthorized" or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_INTERVAL_S)


def submit_launch(api: ApiClient, request: dict[str, Any]) -> DeploymentInfo:
    """Submit a launch; repeat it once if the answer was lost, with the same idempotency key."""
    key = uuid.uuid4().hex
    try:
        return api.launch(request, key)
    except UnreachableError as exc:
        if exc.kind:
            raise
        return api.launch(request, key)
