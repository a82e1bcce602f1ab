"""The files of the dashboard: one page, its style and its modules, read into memory once and served from there.

The page is sent with its style in it, so that a browser paints it after one answer.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).with_name("static")
PAGE, STYLE = "index.html", "style.css"
# where the page names its style, which is put there instead
STYLE_LINK = '<link rel="stylesheet" href="/assets/style.css">'
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Nothing inline but the page's own style, nothing from another host, no frame, and no text that becomes markup.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'sha256-{style}'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # asked for again at each visit: a new version is seen at once, an unchanged one is not sent
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True)
class Asset:
    """One file, also compressed. tag: changes with its content."""

    type: str
    plain: bytes
    packed: bytes
    tag: str


@router.api_route("/", methods=["GET", "HEAD"])
def get_page(request: Request) -> Response:
    """Return the page. It holds nothing of this installation: it asks for that once a browser is signed in."""
    return _respond(request, load_page())


@router.api_route("/assets/{name}", methods=["GET", "HEAD"])
def get_asset(request: Request, name: str) -> Response:
    """Return a file of the page."""
    asset = load_assets().get(name)
    if asset is None:
        raise HTTPException(404)
    return _respond(request, asset)


@cache
def load_assets() -> dict[str, Asset]:
    """Read all files, by name."""
    return {
        path.name: _pack(path.suffix, path.read_bytes()) for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES
    }


@cache
def load_page() -> Asset:
    """Return the page with its style in it."""
    page, style = (load_assets()[name].plain for name in (PAGE, STYLE))
    return _pack(".html", page.replace(STYLE_LINK.encode(), b"<style>" + style + b"</style>"))


@cache
def content_policy() -> str:
    """Return the content security policy; it allows the style that is in the page by its hash."""
    digest = hashlib.sha256(load_assets()[STYLE].plain).digest()
    return POLICY.format(style=base64.b64encode(digest).decode())


def _pack(suffix: str, data: bytes) -> Asset:
    digest = hashlib.sha256(data).hexdigest()[:20]
    return Asset(f"{TYPES[suffix]}; charset=utf-8", data, gzip.compress(data, mtime=0), f'"{digest}"')


def _respond(request: Request, asset: Asset) -> Response:
    headers = {**HEADERS, "Content-Security-Policy": content_policy(), "ETag": asset.tag}
    if request.headers.get("if-none-match") == asset.tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=asset.type)
    return Response(asset.plain, headers=headers, media_type=asset.type)
