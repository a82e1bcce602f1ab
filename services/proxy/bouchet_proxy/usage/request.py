"""What is noted about one request while it passes: times, tokens, how it ended. Never what it says."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bouchet_core.usage import UsageRecord

from bouchet_proxy.asgi import Header, Scope, header
from bouchet_proxy.auth.api_keys import Caller
from bouchet_proxy.auth.rate_limit import TooMuch
from bouchet_proxy.dialects.endpoints import Dialect, Endpoint, dialect_of
from bouchet_proxy.dialects.usage_counts import Tokens
from bouchet_proxy.errors import Failure
from bouchet_proxy.routing.table import Route

# bytes of a request that are about a token, for the guess that is settled in the end
BYTES_PER_TOKEN = 4
CLIENT_LEFT = "client_left"
# Claude Code's own; Codex's; what others have agreed upon
SESSION_HEADERS = (b"x-claude-code-session-id", b"session_id", b"session-id", b"x-session-id")
_SESSION = re.compile(r"session_(?:id\W+)?([0-9a-fA-F-]{36})")


@dataclass
class Live:
    """What goes on right now."""

    streams: int = 0
    held: int = 0


@dataclass(slots=True)
class Tally:
    """One request. asked (the model), first and ended are seconds of the monotonic clock; counts is for the end."""

    caller: Caller
    endpoint: Endpoint
    live: Live
    asked: float = field(default_factory=time.monotonic)
    session: str = field(default="", repr=False)
    route: Route | None = None
    status: int = 0
    error: str = ""
    clamped: bool = False
    guess: int = 0
    first: float | None = None
    ended: float | None = None
    streams: bool = False
    finished: bool = False
    counts: Callable[[], Tokens] = Tokens
    tokens: Tokens = field(default_factory=Tokens)

    def admit(self, body_bytes: int) -> TooMuch | None:
        """Charges the caller's meter, if there is one, with a guess."""
        if self.caller.meter is None or self.endpoint is Endpoint.COUNT_TOKENS:
            return None
        guess = body_bytes // BYTES_PER_TOKEN
        refused = self.caller.meter.admit(guess, time.monotonic())
        self.guess = 0 if refused else guess
        return refused

    def routed(self, route: Route) -> None:
        """A model is about to be asked; a request that was held, or moved to a replica, is asked again."""
        self.route, self.asked = route, time.monotonic()

    def limits(self) -> list[Header]:
        """What is left of the caller's limits, for the answer's head."""
        if self.caller.meter is None:
            return []
        anthropic = dialect_of(self.endpoint) is Dialect.ANTHROPIC
        return self.caller.meter.headers(anthropic, time.monotonic(), time.time())

    def stream_begins(self, status: int, counts: Callable[[], Tokens]) -> None:
        """The head of a streamed answer goes out."""
        self.status, self.streams, self.counts = status, True, counts
        self.live.streams += 1

    def answered(self, status: int, tokens: Tokens) -> None:
        """A whole answer is out."""
        self.status, self.finished, self.counts = status, True, lambda: tokens

    def failed(self, failure: Failure, status: int) -> None:
        """The client was told of a failure; a stream that had begun keeps the status it began with."""
        self.finished, self.error = True, failure.code or f"http_{failure.status}"
        self.status = self.status or status

    def closed(self) -> None:
        """Nothing more will happen; what was guessed is settled."""
        self.ended, self.tokens = time.monotonic(), self.counts()
        if self.streams:
            self.live.streams -= 1
        if not self.finished:
            self.error = CLIENT_LEFT
        if self.caller.meter is not None and self.guess:
            self.caller.meter.settle(self.guess, self.tokens.input + self.tokens.output)

    def record(self, unix_now: float, secret: bytes) -> UsageRecord:
        """The request as it is kept. unix_now: the time of its end; secret: makes the session's hash this stack's."""
        assert self.ended is not None, "a request is recorded before its end"
        route, began = self.route, self.asked if self.first is None else self.first
        return UsageRecord(
            at=unix_now,
            key=self.caller.name,
            model=route.model if route else "",
            session=session_hash(self.session, secret),
            deployment=route.deployment if route else "",
            endpoint=str(self.endpoint),
            status=self.status,
            error=self.error,
            input=self.tokens.input,
            cached=self.tokens.cached,
            output=self.tokens.output,
            first_ms=None if self.first is None else round((self.first - self.asked) * 1000),
            generating_ms=round((self.ended - began) * 1000),
        )


def session_of(scope: Scope, body: Mapping[str, Any]) -> str:
    """The conversation that a request belongs to, '' where the client names none.

    Claude Code says it in a header, older versions in `metadata.user_id` (text in 2.0, JSON in a text since 2.1).
    """
    for name in SESSION_HEADERS:
        if value := header(scope, name):
            return value.decode("latin-1")
    metadata = body.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    found = _SESSION.search(user) if isinstance(user, str) else None
    return found[1] if found else ""


def session_hash(session: str, secret: bytes) -> str:
    """12 characters that stand for a session and lead back to nothing; '' stays ''."""
    if not session:
        return ""
    return hashlib.blake2b(session.encode("utf-8", "replace"), key=secret[:64], digest_size=6).hexdigest()
