"""A server to measure tunnels: `python upstream.py PORT_FILE PORT`. The first byte of a connection says what it wants.

r  echoes pieces of REQUEST bytes, for as long as they come
b  sends BULK bytes and closes
s  sends STREAM_EVENTS events of EVENT bytes, EVENTS_PER_S a second, and closes; each begins with its send time
f  sends for ever
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from pathlib import Path

REQUEST = 512
BULK = 256 << 20
EVENT = 200
EVENTS_PER_S = 50
STREAM_EVENTS = 400
_PIECE = b"\0" * (256 << 10)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    try:
        await _ANSWERS[await reader.readexactly(1)](reader, writer)
        writer.close()
        await writer.wait_closed()
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await reader.readexactly(REQUEST))
        await writer.drain()


async def _bulk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _piece in range(BULK // len(_PIECE)):
        writer.write(_PIECE)
        await writer.drain()


async def _stream(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    began = time.monotonic()
    for number in range(STREAM_EVENTS):
        await asyncio.sleep(max(0.0, began + number / EVENTS_PER_S - time.monotonic()))
        writer.write(struct.pack("d", time.monotonic()) + b"x" * (EVENT - 8))
        await writer.drain()


async def _flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(_PIECE)
        await writer.drain()


_ANSWERS = {b"r": _echo, b"b": _bulk, b"s": _stream, b"f": _flood}


async def main(port_file: Path, port: int) -> None:
    """Listen on the port of 127.0.0.1, and write its number into port_file."""
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await asyncio.to_thread(port_file.write_text, str(port))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
