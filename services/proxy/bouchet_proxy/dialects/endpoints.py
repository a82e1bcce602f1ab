"""Every path a client may ask for, the dialect it is spoken in, and the rules its body goes through. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from bouchet_proxy.routing.table import Route

from .anthropic import prepare_count, prepare_messages
from .openai import prepare_chat, prepare_completion, prepare_embeddings
from .responses import prepare_responses
from .token_limits import Body
from .validation import ANTHROPIC_SHAPES, CHAT_SHAPES, MODEL_SHAPES, RESPONSES_SHAPES, misshapen, misshapen_message


class Dialect(StrEnum):
    """Whose words the client understands."""

    ANTHROPIC = "anthropic"
    OPENAI = "openai"


class Endpoint(StrEnum):
    """The paths that carry a request to a model. The values are the paths, in vLLM and in LiteLLM alike."""

    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    EMBEDDINGS = "/v1/embeddings"


_ENDPOINTS = {str(endpoint): endpoint for endpoint in Endpoint} | {
    "/chat/completions": Endpoint.CHAT,
    "/completions": Endpoint.COMPLETIONS,
    "/embeddings": Endpoint.EMBEDDINGS,
    "/responses": Endpoint.RESPONSES,
}
_SHAPES = {
    Endpoint.MESSAGES: ANTHROPIC_SHAPES,
    Endpoint.COUNT_TOKENS: ANTHROPIC_SHAPES,
    Endpoint.CHAT: CHAT_SHAPES,
    Endpoint.RESPONSES: RESPONSES_SHAPES,
}
_CONVERSATIONS = (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS, Endpoint.CHAT)


class BadBodyError(ValueError):
    """The body cannot be a request of this dialect; the message is for the client."""


class ThreadWanted(BadBodyError):
    """The client would send only what is new, and have the server remember the conversation."""


def endpoint_of(path: str) -> Endpoint | None:
    """The endpoint behind a path, None when it is none."""
    return _ENDPOINTS.get(path)


def dialect_of(path: str) -> Dialect:
    """Whose words to answer in."""
    return Dialect.ANTHROPIC if path.startswith("/v1/messages") else Dialect.OPENAI


def check_body(endpoint: Endpoint, body: object) -> Body:
    """The body, if it has the parts without which no rule makes sense; BadBodyError otherwise."""
    if not isinstance(body, dict):
        raise BadBodyError("the request body must be a JSON object")
    wrong = misshapen(body, _SHAPES.get(endpoint, MODEL_SHAPES))
    if wrong is None and endpoint in _CONVERSATIONS:
        wrong = misshapen_message(body.get("messages"))
    if wrong is not None:
        raise BadBodyError(wrong)
    if endpoint in (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS) and body.get("thread"):
        raise ThreadWanted("thread: conversations are not kept here; send all messages with every request")
    if endpoint is Endpoint.RESPONSES and body.get("previous_response_id"):
        raise BadBodyError("previous_response_id: answers are not kept here; send the whole conversation as input")
    for word in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        limit = body.get(word)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise BadBodyError(f"{word}: must be a whole number of at least 1")
    return body


def prepare(endpoint: Endpoint, body: Body, route: Route) -> Body:
    """The body as the model behind this route takes it; the model's name is not touched."""
    match endpoint:
        case Endpoint.MESSAGES:
            return prepare_messages(body, route.window, route.traits)
        case Endpoint.COUNT_TOKENS:
            return prepare_count(body, route.traits)
        case Endpoint.CHAT:
            return prepare_chat(body, route.window, route.traits)
        case Endpoint.COMPLETIONS:
            return prepare_completion(body, route.window)
        case Endpoint.RESPONSES:
            return prepare_responses(body, route.window, route.traits)
        case Endpoint.EMBEDDINGS:
            return prepare_embeddings(body)
        case _:
            assert_never(endpoint)
