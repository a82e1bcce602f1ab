"""A conversation with a model, and the commands that change it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

HELP = """/model [NAME]   talk with another deployment; without a name: what runs
/system [TEXT]  set the system prompt; without text: none
/save FILE      write the conversation as Markdown
/clear          forget what was said
/help           this list
/quit           leave (so do /exit and Ctrl-D)
A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of several lines.
Ctrl-C stops an answer, or forgets what is being typed. What a model thinks before it answers is dim."""


@dataclass
class Conversation:
    """What was said so far."""

    model: str
    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)

    def request(self) -> dict[str, Any]:
        """The body for /v1/chat/completions."""
        turns = [("system", self.system), *self.turns] if self.system else self.turns
        messages = [{"role": role, "content": text} for role, text in turns]
        return {"model": self.model, "messages": messages, "stream": True}

    def said(self, text: str) -> None:
        """The person's turn."""
        self.turns.append(("user", text))

    def answered(self, text: str) -> None:
        """The model's turn; an answer that never began takes the question back with it."""
        if text:
            self.turns.append(("assistant", text))
        elif self.turns:
            self.turns.pop()

    def markdown(self) -> str:
        """The whole conversation."""
        head = [f"# Conversation with {self.model}", *([f"> {self.system}"] if self.system else [])]
        return "\n\n".join([*head, *(f"**{role}**\n\n{text}" for role, text in self.turns)]) + "\n"


def unfinished(lines: list[str]) -> bool:
    """Whether the text typed so far goes on in the next line."""
    if lines and lines[0].lstrip().startswith('"""'):
        return "\n".join(lines).count('"""') < 2
    return bool(lines) and lines[-1].endswith("\\")


def text_of(lines: list[str]) -> str:
    """The text that was typed, without its marks."""
    whole = "\n".join(lines).strip()
    if whole.startswith('"""'):
        return whole.removeprefix('"""').removesuffix('"""').strip()
    return whole.replace("\\\n", "\n")
