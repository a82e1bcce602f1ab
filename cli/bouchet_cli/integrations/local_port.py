"""A plain port on 127.0.0.1 that leads to one deployment's vLLM, for tools that want an address and know no key.

Every connection carries one request: its first lines get the proxy's path and key, everything after them passes as it
comes, both ways, until one side closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote, urlsplit

from bouchet_cli.client.errors import CommandError
from bouchet_cli.client.settings import Settings

LISTEN = "127.0.0.1"
# a tool in a container of this machine uses the last one
OWN_NAMES = ("127.0.0.1", "localhost", "::1", "host.docker.internal")
HEAD_BYTES, PIECE_BYTES = 64 << 10, 64 << 10
HEAD_S = 60.0
# replaced: the proxy's key, and one request a connection
REPLACED = frozenset(("host", "authorization", "x-api-key", "connection", "keep-alive", "proxy-connection"))


class Unwelcome(Exception):
    """A request that is not passed on: its status and why."""

    def __init__(self, status: str, why: str) -> None:
        self.status, self.why = status, why
        super().__init__(why)


def open_port(settings: Settings, port: int, alias: str, opened: Callable[[int], None]) -> None:
    """Serves until interrupted; `opened` is told the port once it is there. Raises CommandError where it is taken."""
    asyncio.run(_serve(settings, port, alias, opened))


def rewritten(head: bytes, prefix: str, place: str, key: str) -> bytes:
    """A request's first lines as the proxy gets them. Raises Unwelcome for what no tool of this machine sends."""
    first, *lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    method, target, version = (*first.split(" "), "", "", "")[:3]
    if not target.startswith("/") or not version.startswith("HTTP/1."):
        raise Unwelcome("400 Bad Request", "this is no HTTP request for a path")
    headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    _check_origin({name.lower(): value for name, value in headers})
    kept = [(name, value) for name, value in headers if name.lower() not in REPLACED]
    own = [("Host", place), ("Authorization", f"Bearer {key}"), ("Connection", "close")]
    text = [f"{method} {prefix}{target} {version}", *(f"{name}: {value}" for name, value in (*own, *kept))]
    return ("\r\n".join(text) + "\r\n\r\n").encode("latin-1")


def _check_origin(headers: dict[str, str]) -> None:
    """A page of the web in a browser of this machine must not reach the model, whatever name it gives itself."""
    places = [f"//{headers.get('host', '')}", *([headers["origin"]] if "origin" in headers else [])]
    for place in places:
        try:
            name = urlsplit(place).hostname
        except ValueError:
            name = None
        if name not in OWN_NAMES:
            raise Unwelcome(
                "403 Forbidden", f"{place.removeprefix('//') or 'a request without a host'} is not this machine"
            )


async def _serve(settings: Settings, port: int, alias: str, opened: Callable[[int], None]) -> None:
    prefix = f"/passthrough/{quote(alias, safe='')}"

    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await _relay(settings, prefix, reader, writer)
        writer.close()

    try:
        server = await asyncio.start_server(guest, LISTEN, port, limit=HEAD_BYTES)
    except (OSError, OverflowError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise CommandError(f"port {port} cannot be opened: {why}; another number after --port may do") from exc
    opened(server.sockets[0].getsockname()[1])
    # not `serve_forever`, which would wait for streams under way when it is interrupted
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()


async def _relay(settings: Settings, prefix: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    parts = urlsplit(settings.proxy_url)
    try:
        async with asyncio.timeout(HEAD_S):
            head = await reader.readuntil(b"\r\n\r\n")
        far_reader, far = await asyncio.open_connection(parts.hostname, parts.port, ssl=parts.scheme == "https" or None)
        far.write(rewritten(head, prefix, parts.netloc, settings.key))
    except (TimeoutError, asyncio.IncompleteReadError):
        return
    except asyncio.LimitOverrunError:
        await _refuse(writer, Unwelcome("431 Request Header Fields Too Large", "the headers are too long"))
    except Unwelcome as unwelcome:
        await _refuse(writer, unwelcome)
    except OSError:
        words = f"nothing answers at {settings.proxy_url}; `make up` starts the stack"
        await _refuse(writer, Unwelcome("502 Bad Gateway", words))
    else:
        await _join(reader, writer, far_reader, far)


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far: asyncio.StreamWriter,
) -> None:
    """Both ways until the proxy has answered, or the client has left: then the model shall stop too."""
    ways = [asyncio.ensure_future(_pump(reader, far)), asyncio.ensure_future(_pump(far_reader, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        far.close()
    await asyncio.gather(*ways, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(PIECE_BYTES):
        sink.write(data)
        await sink.drain()


async def _refuse(writer: asyncio.StreamWriter, unwelcome: Unwelcome) -> None:
    body = (unwelcome.why + "\n").encode()
    head = f"HTTP/1.1 {unwelcome.status}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n"
    writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
    await writer.drain()
