"""A conversation with a model: typed input with its history file, its turns, and the answers that the proxy streams."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bouchet_cli.client.errors import CommandError, ResponseLostError
from bouchet_cli.client.http import HttpStatusError, ServiceClient
from bouchet_cli.client.problems import error_text, proxy_error
from bouchet_cli.client.settings import CliSettings

HISTORY_LINES = 1000
QUOTES = '"""'


def read_message() -> str | None:
    """Return the typed message, None at the end of input. Ctrl-C discards what has been typed."""
    lines: list[str] = []
    while not lines or is_unfinished(lines):
        try:
            lines.append(input("... " if lines else ">>> "))
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            lines.clear()
    return message_text(lines)


def is_unfinished(lines: Sequence[str]) -> bool:
    """Return whether the message continues on the next line."""
    if lines and lines[0].lstrip().startswith(QUOTES):
        return "\n".join(lines).count(QUOTES) < 2
    return bool(lines) and lines[-1].endswith("\\")


def message_text(lines: Sequence[str]) -> str:
    """Return the message without backslashes at line ends and without the triple quotes."""
    text = "\n".join(lines).strip()
    if text.startswith(QUOTES):
        return text.removeprefix(QUOTES).removesuffix(QUOTES).strip()
    return text.replace("\\\n", "\n")


def history_path(environment: Mapping[str, str]) -> Path:
    """Return the path of the history file, in the XDG state folder."""
    state = environment.get("XDG_STATE_HOME", "")
    home = environment.get("HOME") or str(Path.home())
    # the XDG rules ignore a relative path
    return Path(state if state.startswith("/") else f"{home}/.local/state") / "bouchet" / "chat-history"


@contextmanager
def line_history(path: Path) -> Iterator[None]:
    """Give input() line editing and the history of earlier chats. A history file that cannot be written is ignored."""
    import readline  # importing it writes to the terminal, so only import it where there is one

    readline.set_history_length(HISTORY_LINES)
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        path.chmod(0o600)
        readline.read_history_file(path)
    try:
        yield
    finally:
        with suppress(OSError):
            readline.write_history_file(path)
            path.chmod(0o600)


# a long prompt on a busy GPU takes minutes before its first token
FIRST_TOKEN_TIMEOUT_S = 600.0
HELP = """/model [NAME]   switch to another deployment; without a name: list them
/system [TEXT]  set the system prompt (`none` removes it); without text: show it
/save FILE      save the conversation as Markdown
/clear          start a new conversation
/help           show this list
/quit           leave (also /exit and Ctrl-D)
End a line with \\ to continue on the next line; put several lines between \"\"\" and \"\"\".
Ctrl-C stops the answer, or discards what you have typed. A model's thinking is shown dim."""


@dataclass(frozen=True)
class Turn:
    """One message. model: which answered, empty for a question."""

    role: str
    text: str
    model: str = ""


@dataclass
class Conversation:
    """The turns of a conversation."""

    model: str
    system: str = ""
    turns: list[Turn] = field(default_factory=list)

    def request(self) -> dict[str, Any]:
        """Return the body for /v1/chat/completions."""
        turns = [Turn("system", self.system), *self.turns] if self.system else self.turns
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        return {"model": self.model, "messages": messages, "stream": True}

    def add_question(self, text: str) -> None:
        """Add the user's turn."""
        self.turns.append(Turn("user", text))

    def add_answer(self, text: str) -> None:
        """Add the model's turn; without any text remove the question, so that it can be asked again."""
        if text:
            self.turns.append(Turn("assistant", text, self.model))
        elif self.turns:
            self.turns.pop()

    def markdown(self) -> str:
        """Return the whole conversation as Markdown, with the system prompt and every model that answered."""
        models = list(dict.fromkeys(turn.model for turn in self.turns if turn.model)) or [self.model]
        system = ["\n".join(f"> {line}".rstrip() for line in self.system.splitlines())] if self.system else []
        turns = (f"**{_speaker(turn, len(models) > 1)}**\n\n{turn.text}" for turn in self.turns)
        return "\n\n".join([f"# Conversation with {', '.join(models)}", *system, *turns]) + "\n"


def _speaker(turn: Turn, name_model: bool) -> str:
    return f"{turn.role} ({turn.model})" if turn.model and name_model else turn.role


@dataclass(frozen=True)
class AnswerPart:
    """Some text of an answer. thinking: text before the actual answer."""

    text: str
    thinking: bool = False


class ChatClient:
    """The proxy's chat completions, with the key."""

    def __init__(self, settings: CliSettings) -> None:
        self._service = ServiceClient(settings.proxy_url, settings.key, FIRST_TOKEN_TIMEOUT_S)
        self._own_key = settings.own_key

    def stream(self, request: dict[str, Any]) -> Iterator[AnswerPart]:
        """Yield the answer as it arrives. Raises CommandError subclasses."""
        try:
            yield from parse_answer(self._service.lines("POST", "/v1/chat/completions", request))
        except HttpStatusError as exc:
            raise proxy_error(exc, own_key=self._own_key) from exc
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
