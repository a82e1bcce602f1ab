"""Requests of Gemini's dialect: from the path and the body to a chat, which is served as any other."""

from __future__ import annotations

import logging
from typing import Any

from bouchet_proxy.dialects.endpoints import Endpoint, InvalidBodyError, parse_target
from bouchet_proxy.dialects.gemini import check_gemini, shows_thoughts
from bouchet_proxy.dialects.tokens import Body
from bouchet_proxy.errors import bad_request, internal_error, nested_too_deeply
from bouchet_proxy.routing.table import DEFAULT
from bouchet_proxy.streams.gemini_writer import GeminiWriter

from .litellm_gemini import GeminiAnswer, GeminiLoader, GeminiTranslator
from .loading import wait_until_loaded

# Gemini CLI asks Google's small models for titles, routing and summaries, whatever model a person chose
GOOGLE_MODELS = ("gemini-", "models/gemini-", "gemma-")
UNTRANSLATABLE = "the request has a field of another type than Gemini's API defines; see the API's reference"

log = logging.getLogger(__name__)


class GeminiRequests:
    """Turns the requests of one proxy into chats. LiteLLM is loaded for the first one."""

    def __init__(self, loader: GeminiLoader | None = None) -> None:
        self._loader = loader or GeminiLoader()

    async def translate(self, path: str, value: Any, writer: GeminiWriter) -> Body:
        """Return the chat that a parsed body asks for, and have the writer translate its answer. Raises ProxyError."""
        target = parse_target(path)
        assert target is not None, "the path has been found to be one of Gemini's"
        try:
            body = check_gemini(value)
            translator = await self._load(writer, streams=target.streams)
            chat = _to_chat(translator, body, model_name(target.model), target.streams)
        except RecursionError as exc:
            raise nested_too_deeply() from exc
        except InvalidBodyError as exc:
            raise bad_request(str(exc)) from exc
        if target.endpoint is Endpoint.GENERATE_CONTENT:
            writer.answer = GeminiAnswer(translator, target.model, with_thoughts=shows_thoughts(body))
        return chat

    async def _load(self, writer: GeminiWriter, *, streams: bool) -> GeminiTranslator:
        """Return the translator; a stream gets pings while it is loaded, which takes seconds or more.

        Raises ProxyError, and ClientDisconnectedError if the client has left.
        """
        try:
            return await wait_until_loaded(self._loader.start(), writer, streams=streams)
        except ImportError as exc:
            log.exception("LiteLLM could not be loaded")
            raise internal_error() from exc


def model_name(given: str) -> str:
    """Return the name to look up: any of Google's own reaches the model that runs."""
    return DEFAULT if given.lower().startswith(GOOGLE_MODELS) else given


def _to_chat(translator: GeminiTranslator, body: Body, model: str, stream: bool) -> Body:
    try:
        return translator.to_chat(body, model, stream=stream)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as exc:
        log.warning("LiteLLM could not translate a request of Gemini's dialect: %s", type(exc).__name__)
        raise InvalidBodyError(UNTRANSLATABLE) from exc
