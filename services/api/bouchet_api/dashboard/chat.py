"""The dashboard's chats: passed to the proxy inside the services' own network, with the dashboard's own key.

So the page talks to the API alone, and a browser holds no key of the proxy. Nothing of a chat is stored or logged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import httpx
from bouchet_core.errors import BouchetError
from bouchet_core.gateway_client import NO_TLS
from pydantic import BaseModel, Field, StringConstraints

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
# the proxy sends pings in a stream that waits
READ_TIMEOUT_S = 60.0
MOST_MESSAGES, MOST_CHARACTERS = 400, 1_000_000
LONGEST_ERROR = 64 * 1024


class ChatRefusedError(BouchetError):
    """The proxy or the model refused a chat, or the proxy does not answer."""

    kind = "chat_refused"


class ChatMessage(BaseModel, extra="forbid"):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=MOST_CHARACTERS)]


class ChatRequest(BaseModel, extra="forbid"):
    """A chat so far; the model continues it."""

    model: str = Field(min_length=1, max_length=300, description="a name of a ready deployment")
    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)


class ProxyChat:
    """Asks the proxy, with the dashboard's own key."""

    def __init__(self, proxy_url: str, key: str) -> None:
        self._url, self._key = proxy_url, key

    async def stream(self, request: ChatRequest) -> AsyncIterator[str]:
        """Yield the events of the answer as JSON, as OpenAI's chat endpoint sends them. Raises ChatRefusedError."""
        body = {**request.model_dump(), "stream": True, "stream_options": {"include_usage": True}}
        headers = {"Authorization": f"Bearer {self._key}", "User-Agent": "bouchet-dashboard"}
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            async with (
                httpx.AsyncClient(base_url=self._url, timeout=timeout, verify=NO_TLS, trust_env=False) as client,
                client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise ChatRefusedError(await _reason(response))
                async for line in response.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield line.removeprefix("data: ")
        except httpx.HTTPError as exc:
            detail = str(exc) or type(exc).__name__
            raise ChatRefusedError(f"the proxy does not answer: {detail}; `make status` shows it") from exc


async def _reason(response: httpx.Response) -> str:
    """Return the message of an error response."""
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > LONGEST_ERROR:
            break
    try:
        found: Any = json.loads(body)
        return str(found["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the proxy answered {response.status_code}"
