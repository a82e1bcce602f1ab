"""The HTTP client on asyncio's own event loop, against a small server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import pytest
from bouchet_proxy.http.connection import MAX_UNREAD_BYTES, Connection

IDLE_S, MAX_CPU_S = 0.5, 0.1
GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


async def connect(body: bytes) -> tuple[Connection, asyncio.Server]:
    """Connect to a new server that answers every request with this body."""
    response = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(response)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return connection, server


class PieceRecorder(asyncio.Transport):
    """Keeps the pieces that are written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.pieces += [bytes(data) for data in list_of_data]


@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_send_writes_no_empty_piece(body: bytes) -> None:
    # from Python 3.12 on, asyncio keeps one in its buffer and spins
    connection, transport = Connection(), PieceRecorder()
    connection.connection_made(transport)
    sending = asyncio.create_task(connection.send(GET, body, 5.0))
    await asyncio.sleep(0)
    sending.cancel()
    assert b"".join(transport.pieces) == GET + body and all(transport.pieces)


async def test_send_leaves_an_idle_connection() -> None:
    connection, server = await connect(b"ok")
    await connection.send(GET, b"", 5.0)
    assert await connection.read() == b"ok"
    before = time.thread_time()
    await asyncio.sleep(IDLE_S)
    assert time.thread_time() - before < MAX_CPU_S
    connection.close()
    server.close()


async def test_paused_connection_is_not_reusable() -> None:
    connection, server = await connect(b"x" * (MAX_UNREAD_BYTES + 1))
    await connection.send(GET, b"", 5.0)
    await asyncio.sleep(IDLE_S)
    assert not connection.reusable
    assert len(await connection.read()) == MAX_UNREAD_BYTES + 1
    assert connection.reusable
    connection.close()
    server.close()
