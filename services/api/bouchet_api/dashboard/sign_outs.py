"""Sessions that were signed out: written to Redis, so that they stay so after a restart, and looked up in memory.

This process is the only one that signs out. It needs Redis once for the sessions of processes before it; what it opened
itself it knows. While Redis is away, the former are refused rather than believed, and a sign-out is written later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock, Timer

from bouchet_core.errors import StoreError
from bouchet_core.store.api_keys import SIGN_OUTS_KEPT, SignOutStore

# a Redis that did not answer is asked again after this time
RETRY_S = 2.0

log = logging.getLogger(__name__)


class SignOuts:
    """Which sessions were signed out. clock: Unix time."""

    def __init__(self, store: SignOutStore, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        # of each: id -> Unix time of its end
        self._ended: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}
        self._opened: dict[str, int] = {}
        self._is_loaded = False
        self._failed: tuple[float, StoreError] | None = None
        # held while Redis is asked, and while the above are changed
        self._asking, self._lock = Lock(), Lock()
        self._timer: Timer | None = None

    def note_opened(self, identity: str, expires_at: int) -> None:
        """Note a session that this process has opened."""
        with self._lock:
            self._opened[identity] = expires_at
            _drop_most(self._opened)

    def knows(self, identity: str) -> bool:
        """Return whether it is known if that session was signed out."""
        return self._is_loaded or identity in self._opened or identity in self._ended

    def has(self, identity: str) -> bool:
        """Return whether that session was signed out."""
        return identity in self._ended

    def load(self) -> None:
        """Read those of processes before this one, once. Raises StoreError."""
        with self._asking:
            if self._is_loaded:
                return
            if self._failed is not None and time.monotonic() - self._failed[0] < RETRY_S:
                raise self._failed[1]
            try:
                found = self._store.all()
            except StoreError as exc:
                self._failed = time.monotonic(), exc
                raise
            with self._lock:
                self._ended = found | self._ended
                self._is_loaded = True

    def add(self, identity: str, expires_at: int) -> bool:
        """Sign that session out at once; return whether that is in Redis, so that it outlives this process."""
        with self._lock:
            self._ended[identity] = self._unwritten[identity] = expires_at
            _drop_most(self._ended)
            _drop_most(self._unwritten)
        return self._write()

    def close(self) -> None:
        """Write what is not written yet, for the last time."""
        with self._lock:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._write(is_last=True)

    def _write(self, *, is_again: bool = False, is_last: bool = False) -> bool:
        with self._asking:
            with self._lock:
                waiting = dict(self._unwritten)
            try:
                if waiting:
                    self._store.add(waiting, self._clock())
            except StoreError as exc:
                log.log(
                    logging.DEBUG if is_again else logging.WARNING, "sign-outs not in Redis: %d; %s", len(waiting), exc
                )
                if not is_last:
                    self._write_later()
                return False
        with self._lock:
            for identity in waiting:
                self._unwritten.pop(identity, None)
        return True

    def _write_later(self) -> None:
        with self._lock:
            if self._timer is None:
                self._timer = Timer(RETRY_S, self._write_again)
                self._timer.daemon = True
                self._timer.start()

    def _write_again(self) -> None:
        with self._lock:
            self._timer = None
        self._write(is_again=True)


def _drop_most(sessions: dict[str, int]) -> None:
    """Drop the oldest ones beyond the bound."""
    while len(sessions) > SIGN_OUTS_KEPT:
        del sessions[next(iter(sessions))]
