"""Waiting in tests: poll until a condition holds, and report the last result if it never does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5


def wait_for(
    probe: Callable[[], Found | None],
    timeout_s: float = 30.0,
    explain: Callable[[], str] = str,
    *,
    pause_s: float = 0.0,
) -> Found:
    """Return the first truthy result of `probe`. Pauses grow from 10 ms to 0.5 s, unless `pause_s` sets them.

    Raises AssertionError after `timeout_s` seconds, with the last result and what `explain` adds.
    """
    deadline = time.monotonic() + timeout_s
    pause = pause_s or FIRST_PAUSE_S
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s; last result: {found!r} {explain()}"
        time.sleep(pause)
        pause = pause_s or min(pause * 1.5, LONGEST_PAUSE_S)
    return found
