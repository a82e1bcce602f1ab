"""Answers of the proxy (/v1/chat/completions), piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bouchet_cli.client.errors import CommandError, NotReadyError, UnreachableError
from bouchet_cli.client.http import BrokeOff, Refused, Wire
from bouchet_cli.client.settings import Settings

# a long prompt on a busy GPU, before its first token
SILENCE_S = 600.0
# not ready yet, in the words of OpenAI's and Anthropic's dialects
NOT_READY = (503, 529)


@dataclass(frozen=True)
class Piece:
    """Some of an answer. thought: of what the model thinks before it says something."""

    text: str
    thought: bool = False


class Completions:
    """The proxy, with the key."""

    def __init__(self, settings: Settings) -> None:
        self._wire = Wire(settings.proxy_url, settings.key, SILENCE_S)

    def stream(self, request: dict[str, Any]) -> Iterator[Piece]:
        """The answer as it comes. Raises CommandError subclasses."""
        try:
            yield from pieces(self._wire.lines("POST", "/v1/chat/completions", request))
        except Refused as exc:
            raise error_of(exc) from exc
        except BrokeOff as exc:
            raise CommandError("the answer broke off; try again") from exc


def pieces(lines: Iterator[str]) -> Iterator[Piece]:
    """The text in the chunks of a stream; an error in their midst raises."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        chunk = _chunk(data)
        if "error" in chunk:
            raise CommandError(_message(chunk))
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                yield Piece(thought, thought=True)
            if text := delta.get("content"):
                yield Piece(text)


def _chunk(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError as exc:
        raise CommandError(f"the proxy sent what is no JSON: {data[:80]}") from exc
    return chunk if isinstance(chunk, dict) else {}


def error_of(refused: Refused) -> CommandError:
    """What an answer that is no success means."""
    if refused.status == 401:
        return UnreachableError("the stack was started with another key than the one in .env; run `make up` again")
    body = refused.json()
    said = _message(body) if body else f"the proxy answered {refused.status}"
    return NotReadyError(said) if refused.status in NOT_READY else CommandError(said)


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message") or error) if isinstance(error, dict) else str(error or body)
