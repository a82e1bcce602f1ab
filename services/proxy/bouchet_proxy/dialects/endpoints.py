"""Every path that leads to a model, its dialect, and the rules for its request bodies. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from bouchet_proxy.routing.table import Route

from .anthropic import prepare_count, prepare_messages
from .openai import prepare_chat, prepare_completion, prepare_embeddings, prepare_responses
from .tokens import LIMIT_FIELDS, Body
from .validation import (
    ANTHROPIC_FIELDS,
    CHAT_FIELDS,
    MODEL_FIELD,
    RESPONSES_FIELDS,
    first_invalid_field,
    first_invalid_message,
)


class Dialect(StrEnum):
    """Whose API the client uses."""

    ANTHROPIC = "anthropic"
    OPENAI = "openai"


class Endpoint(StrEnum):
    """The paths that lead to a model; they are the same in vLLM and in LiteLLM."""

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
_FIELDS = {
    Endpoint.MESSAGES: ANTHROPIC_FIELDS,
    Endpoint.COUNT_TOKENS: ANTHROPIC_FIELDS,
    Endpoint.CHAT: CHAT_FIELDS,
    Endpoint.RESPONSES: RESPONSES_FIELDS,
}
_WITH_MESSAGES = (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS, Endpoint.CHAT)


class InvalidBodyError(ValueError):
    """The body is not a request of this dialect; the message is for the client."""


class ThreadUnsupportedError(InvalidBodyError):
    """The client wants to send only new messages and have the server keep the conversation."""


def endpoint_of(path: str) -> Endpoint | None:
    """Return the endpoint of a path, None when there is none."""
    return _ENDPOINTS.get(path)


def dialect_of(path: str) -> Dialect:
    """Return the dialect in which to respond on that path."""
    return Dialect.ANTHROPIC if path.startswith("/v1/messages") else Dialect.OPENAI


def check_body(endpoint: Endpoint, body: object) -> Body:
    """Return the body if it has what the rules below rely on. Raises InvalidBodyError."""
    if not isinstance(body, dict):
        raise InvalidBodyError("the request body must be a JSON object")
    invalid = first_invalid_field(body, _FIELDS.get(endpoint, MODEL_FIELD))
    if invalid is None and endpoint in _WITH_MESSAGES:
        invalid = first_invalid_message(body.get("messages"))
    if invalid is not None:
        raise InvalidBodyError(invalid)
    if endpoint in (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS) and body.get("thread"):
        raise ThreadUnsupportedError("thread: conversations are not stored; send all messages with every request")
    if endpoint is Endpoint.RESPONSES and body.get("previous_response_id"):
        raise InvalidBodyError("previous_response_id: responses are not stored; send the whole conversation as input")
    for name in LIMIT_FIELDS:
        limit = body.get(name)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise InvalidBodyError(f"{name}: must be a whole number of at least 1")
    return body


def prepare(endpoint: Endpoint, body: Body, route: Route) -> Body:
    """Return the body as the model of this route accepts it; the model's name is not changed."""
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
