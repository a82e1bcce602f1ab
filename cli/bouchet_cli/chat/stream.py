"""Streamed answers of the proxy's /v1/chat/completions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bouchet_cli.client.errors import CommandError, ResponseLostError
from bouchet_cli.client.http import HttpStatusError, ServiceClient
from bouchet_cli.client.problems import error_text, proxy_error
from bouchet_cli.client.settings import CliSettings

# a long prompt on a busy GPU takes minutes before its first token
FIRST_TOKEN_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class AnswerPart:
    """Some text of an answer. thinking: text before the actual answer."""

    text: str
    thinking: bool = False


class ChatClient:
    """The proxy's chat completions, with the key."""

    def __init__(self, settings: CliSettings) -> None:
        self._service = ServiceClient(settings.proxy_url, settings.key, FIRST_TOKEN_TIMEOUT_S)

    def stream(self, request: dict[str, Any]) -> Iterator[AnswerPart]:
        """Yield the answer as it arrives. Raises CommandError subclasses."""
        try:
            yield from parse_answer(self._service.lines("POST", "/v1/chat/completions", request))
        except HttpStatusError as exc:
            raise proxy_error(exc) from exc
        except ResponseLostError as exc:
            raise CommandError("the connection was lost during the answer; try again") from exc


def parse_answer(lines: Iterator[str]) -> Iterator[AnswerPart]:
    """Parse the lines of a stream. Raises CommandError for an error event."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        chunk = _parse_chunk(data)
        if "error" in chunk:
            raise CommandError(error_text(chunk))
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thinking := delta.get("reasoning_content") or delta.get("reasoning"):
                yield AnswerPart(thinking, thinking=True)
            if text := delta.get("content"):
                yield AnswerPart(text)


def _parse_chunk(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError as exc:
        raise CommandError(f"the proxy sent an event that is not JSON: {data[:80]}") from exc
    return chunk if isinstance(chunk, dict) else {}
