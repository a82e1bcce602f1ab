"""Authentication by key, and protection from web pages that a browser on this machine has open."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .problems import Problem, problem, problem_response

OPEN_PATHS = frozenset({"/healthz"})
# A foreign name that resolves to 127.0.0.1 (DNS rebinding) is not in this list. `api` is the container's name.
HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "api"})
MAX_BODY_BYTES = 256 * 1024
FORM, JSON = (b"content-type", b"application/x-www-form-urlencoded"), b"application/json"


class AuthMiddleware:
    """ASGI middleware that checks every HTTP request, also those to unknown paths."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with a problem."""
        if scope["type"] == "http":
            found = access_problem(scope["path"], Headers(scope=scope), self.key)
            if found is not None:
                headers = {"WWW-Authenticate": "Bearer"} if found.status == 401 else {}
                await problem_response(found, headers)(scope, receive, send)
                return
            scope = _with_json_type(scope)
        await self.app(scope, receive, send)


def access_problem(path: str, headers: Headers, key: str) -> Problem | None:
    """Return why this request is refused; None lets it pass."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if _hostname(f"//{host}") not in HOSTS:
        return problem(403, "foreign_host", "this API accepts the hosts 127.0.0.1 and localhost only")
    if origin is not None and _hostname(origin) not in HOSTS:
        return problem(403, "foreign_origin", "web pages of other sites may not use this API")
    if path not in OPEN_PATHS and not has_key(headers, key):
        return problem(401, "unauthorized", "send BOUCHET_API_KEY of .env as `Authorization: Bearer` or `x-api-key`")
    return _body_length_problem(headers)


def has_key(headers: Headers, key: str) -> bool:
    """Return whether either header carries the key, in a time that does not depend on the value sent."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    as_bearer = hmac.compare_digest(bearer.strip().encode() if scheme.lower() == "bearer" else b"", key.encode())
    as_header = hmac.compare_digest(headers.get("x-api-key", "").encode(), key.encode())
    return as_bearer or as_header


def _with_json_type(scope: Scope) -> Scope:
    """Return the scope with a form's content type replaced: `curl -d` sends every body as a form."""
    headers = [(name, JSON if (name, value) == FORM else value) for name, value in scope["headers"]]
    return {**scope, "headers": headers}


def _body_length_problem(headers: Headers) -> Problem | None:
    if "transfer-encoding" in headers:
        return problem(411, "length_required", "send the body with a Content-Length")
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length[:12]) > MAX_BODY_BYTES:
        return problem(413, "too_large", f"the body is longer than {MAX_BODY_BYTES // 1024} KiB")
    return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
