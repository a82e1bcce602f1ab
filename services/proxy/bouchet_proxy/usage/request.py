"""What is recorded about one request while it is served: times, tokens, how it ended. Never its content."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bouchet_core.usage import UsageRecord

from bouchet_proxy.api_keys import Caller
from bouchet_proxy.asgi import Header, Scope, header
from bouchet_proxy.dialects.endpoints import COUNTING, Dialect, Endpoint, dialect_of
from bouchet_proxy.dialects.tokens import TokenCounts
from bouchet_proxy.errors import ProxyError
from bouchet_proxy.routing.table import Route

from .hints import Hints

# bytes of a request body per token, for the estimate that is settled at the end
BYTES_PER_TOKEN = 4
CLIENT_LEFT = "client_left"
# of a response that a model had begun to work on
INTERRUPTED_STATUSES = (502, 504)
# Claude Code's own; Codex's; two that other clients have in common
SESSION_HEADERS = (b"x-claude-code-session-id", b"session_id", b"session-id", b"x-session-id")
_SESSION = re.compile(r"session_(?:id\W+)?([0-9a-fA-F-]{36})")


@dataclass
class ActiveRequests:
    """How many streams are open, how many requests wait for a model, and how many for a lost connection."""

    streams: int = 0
    waiting: int = 0
    cut: int = 0


@dataclass(slots=True)
class RequestUsage:
    """The usage of one request. All times are seconds of the monotonic clock.

    sent_at: when the model was asked, for the last time if it was asked repeatedly. read_tokens: what is known so far.
    status: 0 until a response begins. model_name: as the client wrote it. continued: how often another server went on
    with the answer.
    """

    caller: Caller
    endpoint: Endpoint
    active: ActiveRequests
    sent_at: float = field(default_factory=time.monotonic)
    session: str = field(default="", repr=False)
    hints: Hints = field(default_factory=Hints)
    id: str = field(default_factory=lambda: secrets.token_hex(10))
    route: Route | None = None
    status: int = 0
    error: str = ""
    problem: ProxyError | None = field(default=None, repr=False)
    clamped: bool = False
    continued: int = 0
    estimated_tokens: int = 0
    model_name: str = ""
    body_bytes: int = 0
    first_byte_at: float | None = None
    ended_at: float | None = None
    streams: bool = False
    finished: bool = False
    read_tokens: Callable[[], TokenCounts] = TokenCounts
    tokens: TokenCounts = field(default_factory=TokenCounts)

    @property
    def answered(self) -> bool:
        """Whether a model's response has begun."""
        return self.route is not None and 200 <= self.status < 300

    def admit(self, declared_bytes: int) -> None:
        """Charge the caller's limits, if there are any, with an estimate. Raises RateLimitExceededError.

        Called before the body is read, for every request: also those that reach no model take time.
        """
        if self.caller.limiter is None:
            return
        if self.endpoint in COUNTING:
            self.caller.limiter.admit(None, time.monotonic())
            return
        estimate = declared_bytes // BYTES_PER_TOKEN
        self.caller.limiter.admit(estimate, time.monotonic())
        self.estimated_tokens = estimate

    def set_size(self, body_bytes: int) -> None:
        """Correct the estimate once the body has been read: its head may have declared no length."""
        self.body_bytes = body_bytes
        if self.caller.limiter is not None and self.endpoint not in COUNTING:
            estimate = body_bytes // BYTES_PER_TOKEN
            self.caller.limiter.settle(self.estimated_tokens, estimate)
            self.estimated_tokens = estimate

    def set_route(self, route: Route) -> None:
        """Note that a model is about to be asked, again if the request waited or moved to another replica."""
        self.route = route
        if self.first_byte_at is None:
            self.sent_at = time.monotonic()

    def rate_limit_headers(self) -> list[Header]:
        """Return what remains of the caller's limits, as response headers."""
        if self.caller.limiter is None:
            return []
        anthropic = dialect_of(self.endpoint) is Dialect.ANTHROPIC
        return self.caller.limiter.headers(anthropic, time.monotonic(), time.time())

    def start_stream(self, status: int, read_tokens: Callable[[], TokenCounts]) -> None:
        """Note that a streamed response begins."""
        self.active.streams += not self.streams
        self.status, self.streams, self.read_tokens = status, True, read_tokens

    def finish(self, status: int, tokens: TokenCounts) -> None:
        """Note that a whole response has been sent."""
        self.status, self.finished, self.read_tokens = status, True, lambda: tokens

    def fail(self, error: ProxyError, status: int) -> None:
        """Note that the client got an error; a stream that had begun keeps the status it began with."""
        self.finished, self.error, self.problem = True, error.code or f"http_{error.status}", error
        self.status = self.status or status

    def close(self) -> None:
        """Note the end of the request, and settle its estimate."""
        self.ended_at, self.tokens = time.monotonic(), self.read_tokens()
        if self.streams:
            self.active.streams -= 1
        if not self.finished:
            self.error = CLIENT_LEFT
        if self.caller.limiter is not None and self.estimated_tokens:
            self.caller.limiter.settle(self.estimated_tokens, self._used_tokens())

    def _used_tokens(self) -> int:
        """Return what the request is charged: the counts where there are any, else the estimate and the tokens seen.

        Otherwise a client that leaves before the counts would have its prompt for nothing. A request that no model
        worked on is charged nothing.
        """
        seen, has_counts = self.tokens.input + self.tokens.output, self.tokens.input or self.tokens.cached
        refused = self.finished and self.status >= 400 and self.status not in INTERRUPTED_STATUSES
        if has_counts or self.route is None or refused:
            return seen
        return self.estimated_tokens + seen

    def to_record(self, unix_now: float, secret: bytes) -> UsageRecord:
        """Return the record for the store. unix_now: the time of its end; secret: keys the hash of the session.

        The session is left out where no model answered: a client could fill the store with sums of invented ones.
        """
        assert self.ended_at is not None, "a request is recorded after its end"
        route, began_at = self.route, self.sent_at if self.first_byte_at is None else self.first_byte_at
        return UsageRecord(
            at=unix_now,
            key=self.caller.name,
            model=route.model if route else "",
            session=session_hash(self.session, secret) if self.answered else "",
            deployment=route.deployment if route else "",
            endpoint=str(self.endpoint),
            status=self.status,
            error=self.error,
            input=self.tokens.input,
            cached=self.tokens.cached,
            output=self.tokens.output,
            first_ms=None if self.first_byte_at is None else round((self.first_byte_at - self.sent_at) * 1000),
            generating_ms=round((self.ended_at - began_at) * 1000),
            id=self.id,
            job=route.job_name if route else "",
            request_class=self.hints.request_class,
            agent=self.hints.agent,
            client=self.hints.client,
            continued=self.continued,
        )


def find_session(scope: Scope, body: Mapping[str, Any]) -> str:
    """Return the session that a request belongs to, '' where the client names none.

    Claude Code sends it in a header; older versions in `metadata.user_id` (plain in 2.0, as quoted JSON since 2.1).
    """
    for name in SESSION_HEADERS:
        if value := header(scope, name):
            return value.decode("latin-1")
    metadata = body.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    found = _SESSION.search(user) if isinstance(user, str) else None
    return found[1] if found else ""


def session_hash(session: str, secret: bytes) -> str:
    """Return 12 characters that identify a session and cannot be traced back to it; '' stays ''."""
    if not session:
        return ""
    return hashlib.blake2b(session.encode("utf-8", "replace"), key=secret[:64], digest_size=6).hexdigest()
