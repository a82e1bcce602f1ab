"""The fake vLLM behind the job's real guard, in a real uvicorn: `serve_guarded(vllm)`.

The guard runs as in vLLM's process: an ASGI middleware around an app. Here the app asks the fake's own server.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from tests.fakes.vllm.server import FakeVLLM, serve_vllm
from tests.waiting import wait_for

JOB_SCRIPTS = Path(__file__).parents[3] / "remote" / "job"
# the guard proves by itself
DROPPED = {b"transfer-encoding", b"connection", b"content-length", b"date", b"server", b"x-bouchet-proof"}


class FakeApp:
    """vLLM's app, as the guard sees it: it stops when the client disconnects."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        relay = asyncio.ensure_future(self._relay(scope, body, send))
        left = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait((relay, left), return_when=asyncio.FIRST_COMPLETED)
            if relay.done():
                relay.result()
        finally:
            relay.cancel()
            left.cancel()

    async def _relay(self, scope: Any, body: bytes, send: Any) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        url = self._target + scope["path"]
        async with self._session.request(scope["method"], url, data=body, headers=headers) as answer:
            raw = [(n.lower(), v) for n, v in answer.raw_headers if n.lower() not in DROPPED]
            await send({"type": "http.response.start", "status": answer.status, "headers": raw})
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def close(self) -> None:
        """Close the connections to the fake."""
        if self._session is not None:
            await self._session.close()


async def _disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass
class GuardedVLLM:
    """The server: `port` is where the guard listens, `answers` what it keeps, in that event loop."""

    vllm: FakeVLLM
    port: int
    answers: Any
    loop: asyncio.AbstractEventLoop


@contextmanager
def serve_guarded(vllm: FakeVLLM, port: int, **bounds: str) -> Iterator[GuardedVLLM]:
    """Serve the fake behind a guard on 127.0.0.1. bounds: variables of the guard."""
    with serve_vllm(vllm), pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", vllm.key)
        patch.delenv("BOUCHET_DRAIN_FILE", raising=False)
        for name, value in bounds.items():
            patch.setenv(name, value)
        if str(JOB_SCRIPTS) not in sys.path:
            sys.path.append(str(JOB_SCRIPTS))
        app = FakeApp(f"http://127.0.0.1:{vllm.port}")
        guard = importlib.import_module("guard").Guard(app)
        config = uvicorn.Config(with_port(guard, vllm.node_port), port=port, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)

        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve()
            await app.close()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), name="guarded vLLM")
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield GuardedVLLM(vllm, port, guard._answers, loops[0])
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def with_port(app: Any, node_port: int) -> Any:
    """Let the guard prove the port that the records have: behind the slot it listens on another one."""

    async def on_port(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "server": ("127.0.0.1", node_port)}, receive, send)

    return on_port
