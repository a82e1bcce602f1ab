"""The bench's model behind a job's real guard: `python -m tests.bench.kept_answers.guarded_model PORT NODE_PORT`.

The guard is an ASGI middleware in a uvicorn, as in vLLM's process; VLLM_API_KEY is the job's key. The app costs next to
nothing, so that what is measured is the guard. Prompts say `EVENTS[n,0]`; the events are those of tests/bench/model.py.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from typing import Any

import uvicorn

from tests.bench.model import WANTED, anthropic_delta, anthropic_end, anthropic_start
from tests.fakes.vllm.guarded import JOB_SCRIPTS, with_port

EVENT_EVERY_S = 0.002
HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve ASGI: /health, and a stream of events on any other path."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"] == "/health":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    found = WANTED.search(body)
    await send({"type": "http.response.body", "body": anthropic_start(), "more_body": True})
    for _ in range(int(found[1]) if found else 1):
        # vLLM waits for its engine before each event; without a pause, several events would be one piece for a reader
        await asyncio.sleep(EVENT_EVERY_S)
        delta = anthropic_delta(f"{time.time():.6f} ")
        await send({"type": "http.response.body", "body": delta, "more_body": True})
    await asyncio.sleep(EVENT_EVERY_S)
    await send({"type": "http.response.body", "body": anthropic_end()})


def main(port: int, node_port: int) -> None:
    """Serve until the process is ended."""
    sys.path.append(str(JOB_SCRIPTS))
    guard = importlib.import_module("guard").Guard(app)
    config = uvicorn.Config(with_port(guard, node_port), port=port, lifespan="off", log_level="critical")
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
