"""Who may come in: the key, and protection from web pages that a browser on this machine has open."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .problems import Problem, problem, problem_response

OPEN_PATHS = frozenset({"/healthz"})
# A name of somebody else's that resolves to 127.0.0.1 (DNS rebinding) is not among them. `api` is the container's.
HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "api"})
MAX_BODY_BYTES = 256 * 1024
FORM, JSON = (b"content-type", b"application/x-www-form-urlencoded"), b"application/json"


class Door:
    """ASGI middleware in front of everything, unknown paths included."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers why not."""
        if scope["type"] == "http":
            refused = refusal(scope["path"], Headers(scope=scope), self.key)
            if refused is not None:
                headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
                await problem_response(refused, headers)(scope, receive, send)
                return
            scope = _as_json(scope)
        await self.app(scope, receive, send)


def refusal(path: str, headers: Headers, key: str) -> Problem | None:
    """Why this request may not come in, None if it may."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if _hostname(f"//{host}") not in HOSTS:
        return problem(403, "foreign_host", "this API answers to 127.0.0.1 and localhost only")
    if origin is not None and _hostname(origin) not in HOSTS:
        return problem(403, "foreign_origin", "web pages of other sites may not use this API")
    if path not in OPEN_PATHS and not has_key(headers, key):
        return problem(401, "unauthorized", "send BOUCHET_API_KEY of .env as `Authorization: Bearer` or `x-api-key`")
    return _too_long(headers)


def has_key(headers: Headers, key: str) -> bool:
    """Whether either header carries the key; takes equally long for every wrong one."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    as_bearer = hmac.compare_digest(bearer.strip().encode() if scheme.lower() == "bearer" else b"", key.encode())
    as_header = hmac.compare_digest(headers.get("x-api-key", "").encode(), key.encode())
    return as_bearer or as_header


def _as_json(scope: Scope) -> Scope:
    """The request with its body called what it is: `curl -d` calls every body a form, and there are no forms here."""
    headers = [(name, JSON if (name, value) == FORM else value) for name, value in scope["headers"]]
    return {**scope, "headers": headers}


def _too_long(headers: Headers) -> Problem | None:
    if "transfer-encoding" in headers:
        return problem(411, "length_required", "send the body with a Content-Length")
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length[:12]) > MAX_BODY_BYTES:
        return problem(413, "too_large", f"a body may be at most {MAX_BODY_BYTES // 1024} KiB long")
    return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
