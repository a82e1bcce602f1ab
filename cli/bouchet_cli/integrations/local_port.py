"""A port on 127.0.0.1 that forwards to one deployment's vLLM, for tools that cannot send a key.

Every connection carries one request. Its head gets the proxy's path and key; everything after it is relayed both ways
until one side closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote, urlsplit

from bouchet_cli.client.errors import CommandError
from bouchet_cli.client.settings import CliSettings

LISTEN = "127.0.0.1"
# a tool in a container on this machine uses the last one
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1", "host.docker.internal")
MAX_HEAD_BYTES, CHUNK_BYTES = 64 << 10, 64 << 10
HEAD_TIMEOUT_S = 60.0
# replaced by the proxy's key, and by one request per connection
REPLACED_HEADERS = frozenset(("host", "authorization", "x-api-key", "connection", "keep-alive", "proxy-connection"))


class RequestRejectedError(Exception):
    """A request that is not forwarded, with the HTTP status of its answer."""

    def __init__(self, status: str, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


def open_port(settings: CliSettings, port: int, alias: str, announce: Callable[[int], None]) -> None:
    """Forward until interrupted; call `announce` with the port once it is open. Raises CommandError if it is in use."""
    asyncio.run(_serve(settings, port, alias, announce))


def rewrite_head(head: bytes, prefix: str, host: str, key: str) -> bytes:
    """Return a request's head as the proxy gets it. Raises RequestRejectedError for requests from web pages."""
    first, *lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    method, target, version = (*first.split(" "), "", "", "")[:3]
    if not target.startswith("/") or not version.startswith("HTTP/1."):
        raise RequestRejectedError("400 Bad Request", "not an HTTP/1 request for a path")
    headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    _check_origin({name.lower(): value for name, value in headers})
    kept = [(name, value) for name, value in headers if name.lower() not in REPLACED_HEADERS]
    own = [("Host", host), ("Authorization", f"Bearer {key}"), ("Connection", "close")]
    text = [f"{method} {prefix}{target} {version}", *(f"{name}: {value}" for name, value in (*own, *kept))]
    return ("\r\n".join(text) + "\r\n\r\n").encode("latin-1")


def _check_origin(headers: dict[str, str]) -> None:
    """Reject web pages in a browser on this machine, also those whose host name resolves to 127.0.0.1."""
    origins = [f"//{headers.get('host', '')}", *([headers["origin"]] if "origin" in headers else [])]
    for origin in origins:
        try:
            name = urlsplit(origin).hostname
        except ValueError:
            name = None
        if name not in LOCAL_HOSTS:
            shown = origin.removeprefix("//") or "a request without a host"
            raise RequestRejectedError("403 Forbidden", f"{shown} is not this machine")


async def _serve(settings: CliSettings, port: int, alias: str, announce: Callable[[int], None]) -> None:
    prefix = f"/passthrough/{quote(alias, safe='')}"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await _forward(settings, prefix, reader, writer)
        writer.close()

    try:
        server = await asyncio.start_server(handle, LISTEN, port, limit=MAX_HEAD_BYTES)
    except (OSError, OverflowError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise CommandError(f"port {port} cannot be opened: {reason}; try another port") from exc
    announce(server.sockets[0].getsockname()[1])
    # not `serve_forever`, which waits for open streams when it is interrupted
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()


async def _forward(
    settings: CliSettings, prefix: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    parts = urlsplit(settings.proxy_url)
    try:
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
        upstream_reader, upstream = await asyncio.open_connection(
            parts.hostname, parts.port, ssl=parts.scheme == "https" or None
        )
        upstream.write(rewrite_head(head, prefix, parts.netloc, settings.key))
    except (TimeoutError, asyncio.IncompleteReadError):
        return
    except asyncio.LimitOverrunError:
        await _reject(writer, RequestRejectedError("431 Request Header Fields Too Large", "the headers are too long"))
    except RequestRejectedError as exc:
        await _reject(writer, exc)
    except OSError:
        message = f"nothing is listening at {settings.proxy_url}; start the stack with `make up`"
        await _reject(writer, RequestRejectedError("502 Bad Gateway", message))
    else:
        await _relay_both_ways(reader, writer, upstream_reader, upstream)


async def _relay_both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream_reader: asyncio.StreamReader,
    upstream: asyncio.StreamWriter,
) -> None:
    """Relay both ways until one side closes; if the client closes, the model stops too."""
    tasks = [asyncio.ensure_future(_copy(reader, upstream)), asyncio.ensure_future(_copy(upstream_reader, writer))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        upstream.close()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK_BYTES):
        sink.write(data)
        await sink.drain()


async def _reject(writer: asyncio.StreamWriter, error: RequestRejectedError) -> None:
    body = (error.message + "\n").encode()
    head = f"HTTP/1.1 {error.status}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n"
    writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
    await writer.drain()
