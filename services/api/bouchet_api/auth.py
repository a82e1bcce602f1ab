"""Before every request handler: who may ask. A key in a header, or the session of a browser."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from urllib.parse import urlsplit

from bouchet_core.keys import metrics_key
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .dashboard.sessions import (
    SAFE_METHODS,
    TOKEN_HEADER,
    BrowserSession,
    SessionBook,
    SessionUncheckedError,
    is_from_this_site,
)
from .problems import Problem, problem, problem_of, problem_response

# without a key: nothing that these return says anything about this installation
OPEN_PATHS = frozenset({"/healthz", "/"})
ASSETS = "/assets/"
# what Prometheus reads, with a key that opens nothing else
METRICS_PATH = "/metrics"
# where a browser signs in: without a key, but from this API's own page only
SESSION_PATH = "/v1/session"
# A foreign name that resolves to 127.0.0.1 (DNS rebinding) is not in this list. `api` is the container's name.
HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "api"})
MAX_BODY_BYTES = 256 * 1024
# a conversation is sent whole with each of its questions
MAX_CHAT_BYTES, CHAT_PATH = 4 * 1024 * 1024, "/v1/chat"
MAX_LENGTH_DIGITS = 12
FORM, JSON = (b"content-type", b"application/x-www-form-urlencoded"), b"application/json"


class AuthMiddleware:
    """ASGI middleware that checks every HTTP request, also those to unknown paths."""

    def __init__(self, app: ASGIApp, sessions: SessionBook) -> None:
        self.app, self.sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with a problem."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, sessions = Headers(scope=scope), self.sessions
        is_by_session = _needs_session(scope["method"], scope["path"], headers, sessions)
        if is_by_session and sessions.needs_redis(headers):
            with contextlib.suppress(SessionUncheckedError):
                await asyncio.to_thread(sessions.find, headers)
        found = access_problem(scope["method"], scope["path"], headers, sessions)
        if found is not None:
            extra = {"WWW-Authenticate": "Bearer"} if found.status == 401 else {}
            await problem_response(found, extra)(scope, receive, send)
            return
        session = sessions.find(headers) if is_by_session else None
        guarded = send if session is None else _StreamGuard(send, sessions, session)
        try:
            await self.app(_with_json_type(scope), receive, guarded)
        except* _SessionEndedError:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _StreamGuard:
    """Sends what an endless response has, until the session that has opened it ends."""

    def __init__(self, send: Send, sessions: SessionBook, session: BrowserSession) -> None:
        self._send, self._sessions, self._session = send, sessions, session
        self._is_guarded = False

    async def __call__(self, message: Message) -> None:
        """Send one message. Raises _SessionEndedError."""
        is_open = self._sessions.is_open(self._session)
        if message["type"] == "http.response.start":
            # the answer to the sign-out itself begins when the session has ended
            self._is_guarded = is_open and "content-length" not in Headers(raw=message["headers"])
        elif self._is_guarded and not is_open:
            raise _SessionEndedError
        await self._send(message)


class _SessionEndedError(Exception):
    """The session of a stream's reader has ended."""


def access_problem(method: str, path: str, headers: Headers, sessions: SessionBook) -> Problem | None:
    """Return why this request is refused; None lets it pass."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if _hostname(f"//{host}") not in HOSTS:
        return problem(403, "foreign_host", "this API accepts the hosts 127.0.0.1 and localhost only")
    if origin is not None and _hostname(origin) not in HOSTS:
        return problem(403, "foreign_origin", "web pages of other sites may not use this API")
    if not _is_open(path) and not _has_some_key(method, path, headers, sessions):
        found = _session_problem(method, path, headers, sessions)
        if found is not None:
            return found
    return _body_length_problem(headers, MAX_CHAT_BYTES if path == CHAT_PATH else MAX_BODY_BYTES)


def has_key(headers: Headers, key: str) -> bool:
    """Return whether either header carries the key, in a time that does not depend on the value sent."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    as_bearer = hmac.compare_digest(bearer.strip().encode() if scheme.lower() == "bearer" else b"", key.encode())
    as_header = hmac.compare_digest(headers.get("x-api-key", "").encode(), key.encode())
    return as_bearer or as_header


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(ASSETS)


def _has_some_key(method: str, path: str, headers: Headers, sessions: SessionBook) -> bool:
    is_scrape = method == "GET" and path == METRICS_PATH and has_key(headers, metrics_key(sessions.admin_key))
    return is_scrape or has_key(headers, sessions.admin_key)


def _is_sign_in(method: str, path: str) -> bool:
    return path == SESSION_PATH and method == "POST"


def _needs_session(method: str, path: str, headers: Headers, sessions: SessionBook) -> bool:
    """Return whether a request is let in by the session of a browser, if by anything."""
    return not (_is_open(path) or _is_sign_in(method, path) or _has_some_key(method, path, headers, sessions))


def _session_problem(method: str, path: str, headers: Headers, sessions: SessionBook) -> Problem | None:
    """Return why a request without the key is refused: it needs a session, and to come from the dashboard."""
    try:
        session = None if _is_sign_in(method, path) else sessions.find(headers)
    except SessionUncheckedError as exc:
        return problem_of(exc)
    if path != SESSION_PATH and session is None:
        detail = (
            "send BOUCHET_ADMIN_KEY of .env as `Authorization: Bearer` or `x-api-key`; in a browser, sign in at / first"
        )
        return problem(401, "unauthorized", detail)
    if not is_from_this_site(method, headers):
        return problem(403, "foreign_origin", "only the dashboard's own page may use its session")
    if session is None or method in SAFE_METHODS:
        return None
    if not hmac.compare_digest(headers.get(TOKEN_HEADER, "").encode("utf-8", "replace"), session.token.encode()):
        return problem(403, "token_missing", f"a change needs the session's token in {TOKEN_HEADER}; reload the page")
    return None


def _with_json_type(scope: Scope) -> Scope:
    """Return the scope with a form's content type replaced: `curl -d` sends every body as a form."""
    headers = [(name, JSON if (name, value) == FORM else value) for name, value in scope["headers"]]
    return {**scope, "headers": headers}


def _body_length_problem(headers: Headers, most: int) -> Problem | None:
    if "transfer-encoding" in headers:
        return problem(411, "length_required", "send the body with a Content-Length")
    length = headers.get("content-length", "0")
    is_number = length.isascii() and length.isdigit() and len(length) <= MAX_LENGTH_DIGITS
    if not is_number or int(length) > most:
        return problem(413, "too_large", f"the body is longer than {most // 1024} KiB")
    return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
