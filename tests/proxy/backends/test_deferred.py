"""A backend that is loaded for the first request that needs it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from bouchet_proxy.asgi import App, Message, Receive, Scope, Send
from bouchet_proxy.backends.deferred import DeferredBackend, LifespanError, RunningApp
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.upstream_request import Backend, UpstreamRequest

SETTINGS = cast(ProxySettings, None)


class RecordingBackend(Backend):
    """Counts what it is sent, and what its app is asked."""

    def __init__(self) -> None:
        self.loads, self.sent, self.asked = 0, 0, list[str]()

    def mount(self, settings: ProxySettings) -> tuple[Backend, App]:
        """Load it."""
        self.loads += 1
        return self, self.lifespan

    async def send(self, request: UpstreamRequest, scope: Scope) -> None:
        """Implement Backend."""
        self.sent += 1

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve ASGI's lifespan."""
        while not self.asked or self.asked[-1] != "lifespan.shutdown":
            self.asked.append((await receive())["type"])
            await send({"type": f"{self.asked[-1]}.complete"})


class FailingRequest:
    """Takes the error that a client would get."""

    endpoint = "/v1/x"

    def __init__(self) -> None:
        self.errors: list[Any] = []

    async def fail(self, error: Exception) -> None:
        """Take it."""
        self.errors.append(error)


async def run_lifespan(backend: DeferredBackend, *kinds: str) -> list[str]:
    """Send the messages of a server; return the answers."""
    given, answers = [*kinds], list[str]()

    async def receive() -> Message:
        return {"type": given.pop(0)}

    async def send(message: Message) -> None:
        answers.append(message["type"])

    await backend.lifespan({"type": "lifespan"}, receive, send)
    return answers


async def test_backend_is_loaded_once_by_the_first_requests() -> None:
    inner = RecordingBackend()
    deferred = DeferredBackend(inner.mount, SETTINGS)
    assert inner.loads == 0
    await asyncio.gather(*(deferred.send(cast(UpstreamRequest, None), {}) for _ in range(3)))
    assert (inner.loads, inner.sent, inner.asked) == (1, 3, ["lifespan.startup"])
    assert await run_lifespan(deferred, "lifespan.startup", "lifespan.shutdown") == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert inner.asked == ["lifespan.startup", "lifespan.shutdown"]


async def test_backend_that_no_request_needs_is_never_loaded() -> None:
    inner = RecordingBackend()
    await run_lifespan(DeferredBackend(inner.mount, SETTINGS), "lifespan.startup", "lifespan.shutdown")
    assert (inner.loads, inner.asked) == (0, [])


async def test_backend_that_cannot_be_loaded_fails_the_request_and_is_tried_again() -> None:
    inner, attempts = RecordingBackend(), list[int]()

    def mount(settings: ProxySettings) -> tuple[Backend, App]:
        attempts.append(1)
        if len(attempts) == 1:
            raise ImportError("litellm")
        return inner.mount(settings)

    deferred, request = DeferredBackend(mount, SETTINGS), FailingRequest()
    await deferred.send(cast(UpstreamRequest, request), {})
    assert [error.status for error in request.errors] == [500]
    await deferred.send(cast(UpstreamRequest, request), {})
    assert inner.sent == 1


async def test_app_that_does_not_start_raises() -> None:
    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no configuration")

    with pytest.raises(LifespanError, match="no configuration"):
        await RunningApp.start(lifespan)
