"""The first request of Gemini's dialect: LiteLLM is loaded meanwhile, which takes seconds."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest
from bouchet_proxy.asgi import ClientDisconnectedError, Message
from bouchet_proxy.backends import loading
from bouchet_proxy.backends.gemini import GeminiRequests
from bouchet_proxy.backends.litellm_gemini import GeminiAnswer, GeminiLoader, GeminiTranslator
from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.errors import ProxyError
from bouchet_proxy.streams.gemini_writer import GeminiWriter

BODY: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}
WHOLE, STREAM = "/v1beta/models/m:generateContent", "/v1beta/models/m:streamGenerateContent"


class SlowTranslator:
    """A translator whose import takes until `loaded` is set. times: how often it was made."""

    def __init__(self) -> None:
        self.loaded, self.times, self.problem = threading.Event(), 0, ""

    def make(self) -> Any:
        self.times += 1
        self.loaded.wait(30)
        if self.problem:
            raise ImportError(self.problem)
        return self

    def to_chat(self, body: Any, model: str, *, stream: bool) -> Any:
        return {"model": model, "stream": stream, **body}

    def open_stream(self) -> Any:
        return None


class Client:
    """The client's end: what it was sent, and whether it has left."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.writer = GeminiWriter(Dialect.GOOGLE, Endpoint.GENERATE_CONTENT, self._receive, self._send)

    async def _receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("FIRST_PING_S", 0.02), ("PING_S", 0.05), ("PATIENCE_S", 0.3)):
        monkeypatch.setattr(loading, name, seconds)


async def test_stream_gets_pings_while_the_translator_is_loaded() -> None:
    slow, client = SlowTranslator(), Client()
    requests = GeminiRequests(GeminiLoader(slow.make))
    asking = asyncio.ensure_future(requests.translate(STREAM, BODY, client.writer))
    await asyncio.sleep(0.6)
    assert client.sent[0]["status"] == 200 and len(client.sent) > 3
    assert {message["body"] for message in client.sent[1:]} == {b"\n\n"}
    slow.loaded.set()
    assert (await asking)["model"] == "m"
    client.writer.close()


async def test_comment_of_a_server_is_a_ping() -> None:
    client, translator = Client(), cast(GeminiTranslator, SlowTranslator())
    client.writer.answer = GeminiAnswer(translator, "m", with_thoughts=False)
    await client.writer.start_events()
    await client.writer.write(b": still here\n\n")
    assert [message["body"] for message in client.sent[1:]] == [b"\n\n"], "Google's SDK takes it for a broken answer"
    client.writer.close()


async def test_whole_answer_is_refused_with_a_time_and_loading_goes_on() -> None:
    slow, client = SlowTranslator(), Client()
    requests = GeminiRequests(GeminiLoader(slow.make))
    with pytest.raises(ProxyError, match="retry in") as caught:
        await requests.translate(WHOLE, BODY, client.writer)
    assert (caught.value.status, bool(caught.value.retry_after_s), client.sent) == (503, True, [])
    slow.loaded.set()
    assert (await requests.translate(WHOLE, BODY, client.writer))["model"] == "m"
    assert slow.times == 1
    client.writer.close()


async def test_client_that_leaves_does_not_end_the_loading() -> None:
    slow, client, other = SlowTranslator(), Client(), Client()
    requests = GeminiRequests(GeminiLoader(slow.make))
    asking = asyncio.ensure_future(requests.translate(STREAM, BODY, client.writer))
    await asyncio.sleep(0.1)
    client.left.set()
    with pytest.raises(ClientDisconnectedError):
        await asking
    slow.loaded.set()
    assert await requests.translate(WHOLE, BODY, other.writer)
    assert slow.times == 1
    other.writer.close()


async def test_loading_that_failed_is_tried_again_for_the_next_request() -> None:
    slow, client = SlowTranslator(), Client()
    requests = GeminiRequests(GeminiLoader(slow.make))
    slow.problem = "no module"
    slow.loaded.set()
    with pytest.raises(ProxyError, match="internal"):
        await requests.translate(WHOLE, BODY, client.writer)
    slow.problem = ""
    assert await requests.translate(WHOLE, BODY, client.writer)
    assert slow.times == 2
    client.writer.close()
