"""`python -m tests.soak.gateway_process PORT:TARGET ...`: the ports of a gateway as a process that can be killed.

Each port leads to its target. Where nothing listens there, the client gets what the real gateway says of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

_PROBLEM = json.dumps({"kind": "remote_refused", "detail": "Connection refused"}).encode()
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_PROBLEM), _PROBLEM)
)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until either end closes, then close the other one."""
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def serve_port(port: int, target: int) -> None:
    """Forward one port for ever."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_target, to_target = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            with contextlib.suppress(OSError):
                await reader.read(65536)
                writer.write(REFUSAL)
                await writer.drain()
            writer.close()
            return
        await asyncio.gather(pump(reader, to_target), pump(from_target, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    await server.serve_forever()


async def serve_ports(pairs: list[tuple[int, int]]) -> None:
    """Forward all of them."""
    await asyncio.gather(*(serve_port(port, target) for port, target in pairs))


if __name__ == "__main__":
    asked = [argument.partition(":") for argument in sys.argv[1:]]
    asyncio.run(serve_ports([(int(port), int(target)) for port, _, target in asked]))
