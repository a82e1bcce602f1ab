"""Browsers: which web pages may use this proxy (CORS). Pure.

None by default: a page that a browser shows could otherwise reach a proxy on the same machine. `BROWSER_ORIGINS` in
.env names the pages that may, by their origin. A key is needed in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from .asgi import Header, Message, Scope, Send, header
from .errors import origin_not_allowed

METHODS = b"GET, HEAD, POST, OPTIONS"
EXPOSED = b"request-id, retry-after, x-bouchet-model, x-bouchet-note"
# seconds for which a browser need not ask again
MAX_AGE = b"600"
MAX_REQUESTED_BYTES = 2000
_DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}


def parse_origins(text: str) -> frozenset[str]:
    """Return the origins in a list that is separated by commas. Raises ValueError, which says what is wrong."""
    return frozenset(_origin(part.strip()) for part in text.split(",") if part.strip())


def _origin(text: str) -> str:
    """Return an origin as browsers write it: no path, no default port, lower case."""
    parts = urlsplit(text)
    has_more = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or has_more:
        raise ValueError(f"{text!r} is not an origin such as http://localhost:3000 (scheme, host and port, no path)")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = parts.port if parts.port != _DEFAULT_PORTS[parts.scheme] else None
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


class Browsers:
    """The origins that may use the proxy."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def preflight(self, scope: Scope, methods: str) -> list[Header]:
        """Return the headers that answer an OPTIONS request. methods: those of the path.

        Raises ProxyError for an origin that is not allowed.
        """
        origin = header(scope, b"origin")
        if origin is None:
            return [(b"allow", methods.encode())]
        if origin not in self._origins:
            raise origin_not_allowed(origin.decode("latin-1"))
        requested = header(scope, b"access-control-request-headers") or b""
        headers = [
            *self._headers(origin),
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", MAX_AGE),
        ]
        if requested and len(requested) <= MAX_REQUESTED_BYTES:
            headers.append((b"access-control-allow-headers", requested))
        if header(scope, b"access-control-request-private-network") == b"true":
            headers.append((b"access-control-allow-private-network", b"true"))
        return headers

    def wrap(self, scope: Scope, send: Send) -> Send:
        """Return a `send` whose responses an allowed page may read; for all others the given one."""
        origin = header(scope, b"origin") if self._origins else None
        if origin is None or origin not in self._origins:
            return send
        added = self._headers(origin)

        async def send_to_page(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["method"] != "OPTIONS":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return send_to_page

    def _headers(self, origin: bytes) -> list[Header]:
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED),
            (b"vary", b"origin"),
        ]
