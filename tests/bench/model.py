"""A model's server that costs next to nothing: `python -m tests.bench.model PORT KEY NODE_PORT`.

Prompts say `EVENTS[n,per second]`; 0 per second: all at once. Speaks Anthropic's and OpenAI's streams; each piece of
text is the time at which it was sent. /health proves that the server holds KEY and listens on NODE_PORT of its node, as
the guard of a job does: without the proof, the proxy sends it nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import sys
import time
from functools import partial

from bouchet_core.keys import NONCE_HEADER, PROOF_HEADER

WANTED = re.compile(rb"EVENTS\[(\d+),(\d+)\]")
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
NONCE = re.compile(NONCE_HEADER.encode() + rb":\s*(\w+)", re.IGNORECASE)


def _event(name: str, **data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data}, separators=(',', ':'))}\n\n".encode()


_MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "tiny"}
_USAGE = {"input_tokens": 17000, "output_tokens": 0}
_START = _event("message_start", message={**_MESSAGE, "stop_reason": None, "stop_sequence": None, "usage": _USAGE})
_START += _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
_STOP = _event("content_block_stop", index=0)
_STOP += _event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=_USAGE)
_STOP += _event("message_stop")


def anthropic_start() -> bytes:
    """Return the events before the deltas."""
    return _START


def anthropic_end() -> bytes:
    """Return the events behind the deltas."""
    return _STOP


def anthropic_delta(text: str) -> bytes:
    """Make one Anthropic text delta."""
    return (
        'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        f'"delta":{{"type":"text_delta","text":"{text}"}}}}\n\n'
    ).encode()


def openai_delta(text: str, finish: str = "null") -> bytes:
    """Make one OpenAI chat delta."""
    return (
        'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"tiny","choices":[{"index":0,'
        f'"delta":{{"role":"assistant","content":"{text}"}},"finish_reason":{finish}}}]}}\n\n'
    ).encode()


def chunk(data: bytes) -> bytes:
    """Make a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def health(head: bytes, key: str, node_port: int) -> bytes:
    """Make the response of /health, with a proof for the nonce in the request's head."""
    found = NONCE.search(head)
    message = f"bouchet-proof {node_port} {found[1].decode() if found else ''}"
    proof = hmac.new(key.encode(), message.encode(), hashlib.sha256).hexdigest()
    lines = ("HTTP/1.1 200 OK", "content-type: application/json", f"{PROOF_HEADER}: {proof}", "content-length: 2")
    return ("\r\n".join(lines) + "\r\n\r\n{}").encode()


async def serve(key: str, node_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection, request after request."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            if b"/v1/messages" in head:
                await _answer(writer, body, anthropic_delta, _START, _STOP)
            elif b"/chat/completions" in head:
                end = openai_delta("", '"stop"') + b"data: [DONE]\n\n"
                await _answer(writer, body, openai_delta, openai_delta(""), end)
            else:
                writer.write(health(head, key, node_port))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _answer(writer: asyncio.StreamWriter, body: bytes, delta: object, start: bytes, stop: bytes) -> None:
    assert callable(delta)
    found = WANTED.search(body)
    count, rate = (int(found[1]), int(found[2])) if found else (1, 0)
    writer.write(HEAD + chunk(start))
    began = asyncio.get_running_loop().time()
    for number in range(count):
        if rate:
            await asyncio.sleep(began + number / rate - asyncio.get_running_loop().time())
        writer.write(chunk(delta(f"{time.time():.6f} ")))
        await writer.drain()
    writer.write(chunk(stop) + b"0\r\n\r\n")
    await writer.drain()


async def main(port: int, key: str, node_port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(partial(serve, key, node_port), "127.0.0.1", port, limit=1 << 24)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
