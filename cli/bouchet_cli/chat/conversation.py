"""A conversation with a model: its turns, and the answers that the proxy streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bouchet_cli.client.errors import CommandError, ResponseLostError
from bouchet_cli.client.http import HttpStatusError, ServiceClient
from bouchet_cli.client.problems import error_text, proxy_error
from bouchet_cli.client.settings import CliSettings

# a long prompt on a busy GPU takes minutes before its first token
FIRST_TOKEN_TIMEOUT_S = 600.0
HELP = """/model [NAME]   switch to another deployment; without a name: list them
/system [TEXT]  set the system prompt; without text: remove it
/save FILE      save the conversation as Markdown
/clear          start a new conversation
/help           show this list
/quit           leave (also /exit and Ctrl-D)
End a line with \\ to continue on the next line; put several lines between \"\"\" and \"\"\".
Ctrl-C stops the answer, or discards what you have typed. A model's thinking is shown dim."""


@dataclass
class Conversation:
    """The turns of a conversation: role and text."""

    model: str
    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)

    def request(self) -> dict[str, Any]:
        """Return the body for /v1/chat/completions."""
        turns = [("system", self.system), *self.turns] if self.system else self.turns
        messages = [{"role": role, "content": text} for role, text in turns]
        return {"model": self.model, "messages": messages, "stream": True}

    def add_question(self, text: str) -> None:
        """Add the user's turn."""
        self.turns.append(("user", text))

    def add_answer(self, text: str) -> None:
        """Add the model's turn; without any text remove the question, so that it can be asked again."""
        if text:
            self.turns.append(("assistant", text))
        elif self.turns:
            self.turns.pop()

    def markdown(self) -> str:
        """Return the whole conversation as Markdown."""
        title = [f"# Conversation with {self.model}", *([f"> {self.system}"] if self.system else [])]
        return "\n\n".join([*title, *(f"**{role}**\n\n{text}" for role, text in self.turns)]) + "\n"


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
