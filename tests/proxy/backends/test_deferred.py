"""A backend that is loaded for the first request that needs it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest
from bouchet_proxy.asgi import App, ClientDisconnectedError, Message, Receive, Scope, Send
from bouchet_proxy.backends import loading
from bouchet_proxy.backends.deferred import DeferredBackend, LifespanError, RunningApp
from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.settings import ProxySettings
from bouchet_proxy.streams.response_writer import ResponseWriter
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


class FakeRequest:
    """A request of a client, which takes the error that it would get."""

    endpoint = "/v1/x"

    def __init__(self, *, wants_stream: bool = False) -> None:
        self.errors: list[Any] = []
        self.wants_stream = wants_stream
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.writer = ResponseWriter(Dialect.ANTHROPIC, Endpoint.MESSAGES, self._receive, self._send)

    async def _receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

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
    await asyncio.gather(*(deferred.send(cast(UpstreamRequest, FakeRequest()), {}) for _ in range(3)))
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

    deferred, request = DeferredBackend(mount, SETTINGS), FakeRequest()
    await deferred.send(cast(UpstreamRequest, request), {})
    assert [error.status for error in request.errors] == [500]
    await deferred.send(cast(UpstreamRequest, request), {})
    assert inner.sent == 1


class SlowMount:
    """A backend whose import takes until `loaded` is set."""

    def __init__(self) -> None:
        self.inner, self.loaded = RecordingBackend(), threading.Event()

    def __call__(self, settings: ProxySettings) -> tuple[Backend, App]:
        self.loaded.wait(30)
        return self.inner.mount(settings)


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("FIRST_PING_S", 0.02), ("PING_S", 0.05), ("PATIENCE_S", 0.3)):
        monkeypatch.setattr(loading, name, seconds)


@pytest.mark.usefixtures("short_times")
async def test_stream_gets_pings_while_the_backend_is_loaded() -> None:
    mount, request = SlowMount(), FakeRequest(wants_stream=True)
    sending = asyncio.ensure_future(DeferredBackend(mount, SETTINGS).send(cast(UpstreamRequest, request), {}))
    await asyncio.sleep(0.5)
    assert request.sent[0]["status"] == 200 and len(request.sent) > 3
    assert all(b"ping" in message["body"] for message in request.sent[1:])
    mount.loaded.set()
    await sending
    assert mount.inner.sent == 1 and not request.errors
    request.writer.close()


@pytest.mark.usefixtures("short_times")
async def test_whole_answer_is_asked_to_come_again_and_loading_goes_on() -> None:
    mount, request = SlowMount(), FakeRequest()
    deferred = DeferredBackend(mount, SETTINGS)
    await deferred.send(cast(UpstreamRequest, request), {})
    assert [(error.status, error.retry_after_s) for error in request.errors] == [(503, 10)] and not request.sent
    mount.loaded.set()
    await deferred.send(cast(UpstreamRequest, request), {})
    assert (mount.inner.loads, mount.inner.sent) == (1, 1)
    request.writer.close()


@pytest.mark.usefixtures("short_times")
async def test_client_that_leaves_meanwhile_ends_its_request_alone() -> None:
    mount, request, other = SlowMount(), FakeRequest(wants_stream=True), FakeRequest(wants_stream=True)
    deferred = DeferredBackend(mount, SETTINGS)
    waiting = asyncio.ensure_future(deferred.send(cast(UpstreamRequest, other), {}))
    request.left.set()
    with pytest.raises(ClientDisconnectedError):
        await deferred.send(cast(UpstreamRequest, request), {})
    mount.loaded.set()
    await waiting
    assert (mount.inner.loads, mount.inner.sent) == (1, 1)
    other.writer.close()


async def test_app_that_does_not_start_raises() -> None:
    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no configuration")

    with pytest.raises(LifespanError, match="no configuration"):
        await RunningApp.start(lifespan)
