"""LiteLLM's translation between Gemini's `generateContent` and OpenAI's chats, as a library.

vLLM speaks no Gemini. LiteLLM translates the request; the chat then takes the same way as any other, with its rules,
holds and resumption, and LiteLLM translates the answer. Its own way to the server would swallow errors in streams.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable
from typing import Any

import orjson

from bouchet_proxy.dialects.gemini import complete_chat, drop_nulls, readable_request
from bouchet_proxy.dialects.tokens import Body

from .litellm import import_litellm

# LiteLLM looks a model up by its provider, and prints a line for a name without one
PROVIDER = "hosted_vllm/"
_NO_PARTS: Body = {"content": {"parts": [], "role": "model"}}

log = logging.getLogger(__name__)


class GeminiTranslator:
    """Translates requests and answers. Made by `load`: LiteLLM takes seconds and 200 MB."""

    def __init__(self) -> None:
        import_litellm()
        self._types = importlib.import_module("litellm.types.utils")
        self._module = importlib.import_module("litellm.google_genai.adapters.transformation")
        self._adapter = self._module.GoogleGenAIAdapter()

    def to_chat(self, body: Body, model: str, *, stream: bool) -> Body:
        """Return the chat that a checked body asks for."""
        readable = readable_request(body)
        config = readable.get("generationConfig") or {}
        chat: Body = self._adapter.translate_generate_content_to_completion(
            PROVIDER + model,
            readable["contents"],
            config=config,
            systemInstruction=readable["systemInstruction"],
            tools=readable["tools"],
            toolConfig=readable.get("toolConfig"),
        )
        return complete_chat({**chat, "model": model}, body, stream=stream)

    def to_gemini(self, completion: Body) -> Body:
        """Return a whole answer in Google's form."""
        found: Body = self._adapter.translate_completion_to_generate_content(self._types.ModelResponse(**completion))
        return found

    def open_stream(self) -> GeminiStream:
        """Return the translation of one stream."""
        return GeminiStream(self._adapter, self._module.GoogleGenAIStreamWrapper(None), self._types.ModelResponseStream)


class GeminiStream:
    """Translates the chunks of one streamed chat, in their order."""

    def __init__(self, adapter: Any, state: Any, chunk_type: Any) -> None:
        self._adapter, self._state, self._chunk_type = adapter, state, chunk_type

    def feed(self, chunk: Body) -> Body | None:
        """Return what the client gets for a chunk, None where it is a part of something that comes later."""
        found: Body | None = self._adapter.translate_streaming_completion_to_generate_content(
            self._chunk_type(**chunk), self._state
        )
        ends = any(choice.get("finish_reason") for choice in chunk.get("choices") or ())
        return self._with_open_calls(found) if ends and self._state.accumulated_tool_calls else found

    def _with_open_calls(self, found: Body | None) -> Body | None:
        """Add the calls whose arguments never became an object: LiteLLM would forget them, and they have no others."""
        calls = [self._state.accumulated_tool_calls.pop(index) for index in list(self._state.accumulated_tool_calls)]
        parts = [{"functionCall": {"name": call["name"], "args": {}}} for call in calls if call["name"]]
        last = found or self._state.take_finish_chunk_awaiting_usage()
        if last is None:
            return None
        last["candidates"][0]["content"]["parts"] += parts
        if found is None:
            self._state.hold_finish_chunk_for_usage(last)
        return found

    def finish(self) -> Body | None:
        """Return what was held back for the end."""
        found: Body | None = self._state.take_finish_chunk_awaiting_usage()
        return found


class GeminiLoader:
    """Loads the translator once, in a thread, for the first request of this dialect. make: builds the translator."""

    def __init__(self, make: Callable[[], GeminiTranslator] = GeminiTranslator) -> None:
        self._make = make
        self._task: asyncio.Task[GeminiTranslator] | None = None

    def start(self) -> asyncio.Task[GeminiTranslator]:
        """Return the task that loads it, which goes on when the client that it was begun for leaves.

        One that failed is begun again for the next request.
        """
        task = self._task
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            log.info("loading LiteLLM for the first request of Gemini's dialect")
            task = self._task = asyncio.get_running_loop().create_task(asyncio.to_thread(self._make))
        return task


class GeminiAnswer:
    """The answer of one request on its way to a client of Gemini's dialect.

    model_name: as the client wrote it; with_thoughts: the client reads the model's thoughts.
    """

    def __init__(self, translator: GeminiTranslator, model_name: str, *, with_thoughts: bool) -> None:
        self._translator, self._stream = translator, translator.open_stream()
        self._model_name, self._with_thoughts = model_name, with_thoughts

    def translate_whole(self, data: bytes) -> bytes:
        """Return a whole chat completion in Google's form."""
        completion = orjson.loads(data)
        found = self._translator.to_gemini(completion)
        message = completion["choices"][0].get("message") or {}
        if thoughts := self._thoughts(message):
            content = found["candidates"][0]["content"]
            content["parts"] = [*thoughts, *content["parts"]]
        return self._encode(found, completion)

    def translate_chunk(self, data: bytes) -> bytes:
        """Return the event for a chunk of a stream, b'' for none."""
        chunk = orjson.loads(data)
        choices: list[Body] = chunk.get("choices") or [{}]
        thoughts = self._thoughts(choices[0].get("delta") or {})
        found = self._stream.feed(chunk)
        if thoughts:
            found = found or {"candidates": [{**_NO_PARTS, "index": 0}]}
            content = found["candidates"][0]["content"]
            found["candidates"][0]["content"] = {**content, "parts": [*thoughts, *content["parts"]]}
        return b"" if found is None else b"data: " + self._encode(found, chunk) + b"\n\n"

    def finish(self) -> bytes:
        """Return the event that was held back for the end, b'' for none."""
        found = self._stream.finish()
        return b"" if found is None else b"data: " + self._encode(found, {}) + b"\n\n"

    def _thoughts(self, message: Body) -> list[Body]:
        text = message.get("reasoning") or message.get("reasoning_content")
        return [{"text": text, "thought": True}] if self._with_thoughts and isinstance(text, str) and text else []

    def _encode(self, found: Body, completion: Body) -> bytes:
        names = {"modelVersion": self._model_name, "responseId": completion.get("id")}
        return orjson.dumps(drop_nulls({**found, **names}))
