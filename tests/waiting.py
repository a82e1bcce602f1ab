"""Waiting in tests: poll until a condition holds, and say what was seen last when it never does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

PAUSE_S = 0.02


def wait_for(
    probe: Callable[[], Found], timeout_s: float = 30.0, *, pause_s: float = PAUSE_S, explain: Callable[[], str] = str
) -> Found:
    """Return the first truthy result of `probe`.

    Raises AssertionError after `timeout_s` seconds, with the last result and what `explain` adds.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s; last result: {found!r} {explain()}"
        time.sleep(pause_s)
    return found
