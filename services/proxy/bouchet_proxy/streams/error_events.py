"""Errors as the end of a stream, in the form that each dialect's clients read there, and retry where that may help."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Any

import orjson

from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.errors import OVERLOADED, ProxyError, error_body

from .sse import render

DONE = b"data: [DONE]\n\n"
# from this status on another server may do better
SERVER_ERROR = 500
TOO_MANY = 429
# codes of a failed response after which Codex does not ask again
FINAL_CODES = frozenset(("context_length_exceeded", "invalid_prompt"))


def error_events(endpoint: Endpoint | None, dialect: Dialect, error: ProxyError) -> bytes:
    """Render the end of a stream that failed, as the dialect's clients expect it."""
    if dialect is Dialect.ANTHROPIC:
        return render("error", error_body(dialect, retryable(error)))
    if dialect is Dialect.GOOGLE:
        # as Google's SDKs read it: not as an event, but as the body of an error
        return orjson.dumps(error_body(dialect, error)) + b"\n\n"
    if endpoint is Endpoint.RESPONSES:
        return failed_response(error)
    return render("", error_body(dialect, error)) + DONE


def failed_response(error: ProxyError, begun: dict[str, Any] | None = None, number: int = 0) -> bytes:
    """Render the end of a response that failed. begun: the response, where the client has its beginning.

    Codex passes over an event `error`, and asks again for all that it does not find in `response.failed`.
    """
    found = {"code": response_code(error), "message": error.message}
    if begun is not None:
        return _response_event("response.failed", number, {**begun, "status": "failed", "error": found})
    fresh = {"id": f"resp_{secrets.token_hex(12)}", "object": "response", "created_at": int(time.time()), "output": []}
    begun = {**fresh, "model": "", "status": "in_progress", "error": None, "incomplete_details": None, "tools": []}
    begun |= {"instructions": None, "metadata": None, "parallel_tool_calls": True, "tool_choice": "auto"}
    return _response_event("response.created", number, begun) + failed_response(error, begun, number + 1)


def _response_event(kind: str, number: int, response: dict[str, Any]) -> bytes:
    return render(kind, {"type": kind, "sequence_number": number, "response": response})


def response_code(error: ProxyError) -> str:
    """Return the code of a failed response: those in FINAL_CODES end Codex's turn, all others are asked again."""
    if error.status >= SERVER_ERROR or error.status == TOO_MANY:
        return error.code or "server_error"
    return error.code if error.code in FINAL_CODES else "invalid_prompt"


def retryable(error: ProxyError) -> ProxyError:
    """Return the error as Anthropic's clients retry it in a stream: there they retry `overloaded_error` alone."""
    return replace(error, status=OVERLOADED) if error.status >= 500 else error
