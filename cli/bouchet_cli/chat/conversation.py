"""A conversation with a model, and the commands that change it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
