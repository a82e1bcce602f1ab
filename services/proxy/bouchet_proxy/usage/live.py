"""The requests that are open now, for the dashboard: listed in Redis once a second while it is looked at.

While it is not, a request costs an entry in a dictionary, and the thread asks every other second whether it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from bouchet_core.errors import StoreError
from bouchet_core.live import MOST_ERRORS, MOST_REQUESTS, LiveRequest, LiveRequests, SeenError, shown_text
from bouchet_core.store import Store

from bouchet_proxy.errors import ProxyError

from .request import RequestUsage, session_hash

log = logging.getLogger(__name__)

WRITE_S, ASK_S = 1.0, 2.0


class OpenRequests:
    """The open requests and the last errors. Changed on the event loop, read by the thread that reports."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._ids = count(1)
        self._open: dict[int, tuple[float, RequestUsage]] = {}
        self._errors: deque[SeenError] = deque(maxlen=MOST_ERRORS)

    @contextmanager
    def track(self, usage: RequestUsage) -> Iterator[None]:
        """List a request until it ends."""
        number = next(self._ids)
        self._open[number] = time.time(), usage
        try:
            yield
        finally:
            del self._open[number]

    def note_error(self, usage: RequestUsage, error: ProxyError, status: int) -> None:
        """Keep an error as its client was sent it."""
        seen = SeenError(
            at=time.time(),
            key=usage.caller.name,
            model=shown_text(usage.model_name),
            status=status,
            kind=error.code or "",
            message=shown_text(error.message),
        )
        self._errors.append(seen)

    def report(self, now: float) -> LiveRequests:
        """Return all of it, the oldest request first. now: Unix time."""
        found = list(self._open.items())
        rows = tuple(self._row(number, began, usage) for number, (began, usage) in found[:MOST_REQUESTS])
        return LiveRequests(at=now, requests=rows, more=len(found) - len(rows), errors=tuple(self._errors))

    def _row(self, number: int, began: float, usage: RequestUsage) -> LiveRequest:
        tokens, first = usage.read_tokens(), usage.first_byte_at
        prompt = tokens.input + tokens.cached
        writing_s = 0.0 if first is None else time.monotonic() - first
        return LiveRequest(
            id=number,
            conversation=session_hash(usage.session, self._secret),
            key=usage.caller.name,
            agent=usage.hints.client,
            kind=usage.hints.agent or usage.hints.request_class,
            model=shown_text(usage.model_name),
            deployment=usage.route.deployment if usage.route else "",
            phase="held" if usage.route is None else "sent" if first is None else "decode",
            began=round(began, 2),
            prompt=usage.body_bytes,
            tokens=tokens.output,
            rate=round(tokens.output / writing_s, 1) if writing_s > 0.5 else None,
            cached=round(tokens.cached / prompt, 3) if prompt else None,
        )


class LiveReporter:
    """Owns the thread that lists the open requests."""

    def __init__(self, store: Store, requests: OpenRequests) -> None:
        self._store, self._requests = store, requests
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="open requests", daemon=True)
        self._is_failing = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self._thread.join(timeout=WRITE_S + 1)

    def _run(self) -> None:
        while not self._stopping.wait(WRITE_S if self._write() else ASK_S):
            pass

    def _write(self) -> bool:
        """List the requests if anybody looks; return whether that is so."""
        try:
            is_watched = self._store.live_view.is_watched()
            if is_watched:
                self._store.live_view.report_requests(self._requests.report(time.time()))
        except StoreError as exc:
            if not self._is_failing:
                log.warning("cannot list the open requests: %s", exc)
            self._is_failing = True
            return False
        except Exception:
            log.exception("cannot list the open requests")
            return False
        self._is_failing = False
        return is_watched
