"""What a prompt asks the fake vLLM to do, and how the fake counts tokens.

Commands in the last user text: `SAY[text]` answers with it, `THINK[text]` adds a think block before it,
`CALL[name {json}]` calls a tool (repeated: parallel calls), and `SEEN[words]` answers how often the words are elsewhere
in the request. `DIE[n]` closes the connection after n events, `SLOW[s]` waits s seconds before the first event,
`HEAD[s]` before the head of the response, `FIRST[s]` after the first event, `PACE[s]` after each, `REFUSE[status]`
responds with that status.
"""

from __future__ import annotations

import json
import re
from typing import Any

COMMANDS = "SAY|THINK|CALL|SEEN|DIE|SLOW|HEAD|FIRST|PACE|REFUSE"
REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
COMMAND = re.compile(rf"({COMMANDS})\[(.*?)\](?=\s|$|{COMMANDS})", re.DOTALL)

Body = dict[str, Any]


class Script:
    """The commands in a prompt. Without any, the answer is `ok`."""

    def __init__(self, text: str, body: Body | None = None) -> None:
        commands = COMMAND.findall(text)
        found = dict(commands)
        self.answer = found.get("SAY", "ok" if "CALL" not in found else "")
        if words := found.get("SEEN"):
            whole = json.dumps(body)
            self.answer = str(whole.count(words) - whole.count(f"SEEN[{words}]"))
        self.thoughts = found.get("THINK")
        self.calls = [arguments for name, arguments in commands if name == "CALL"]
        self.die_after = int(found["DIE"]) if "DIE" in found else None
        self.wait_s = float(found.get("SLOW", 0))
        self.head_s, self.first_s = float(found.get("HEAD", 0)), float(found.get("FIRST", 0))
        self.pace_s = float(found.get("PACE", 0))
        self.refuse = int(found.get("REFUSE", 0))

    def go_on_behind(self, begun: str) -> None:
        """Answer with the rest of a text that was begun, as vLLM does with `continue_final_message`."""
        if begun:
            self.answer, self.thoughts = self.answer.removeprefix(begun), None

    @property
    def text(self) -> str:
        """The answer with its think block."""
        return f"<think>{self.thoughts}</think>{self.answer}" if self.thoughts is not None else self.answer

    @property
    def tokens(self) -> list[str]:
        """The text in tokens."""
        return split_tokens(self.text)

    @property
    def tools(self) -> list[tuple[str, Body]]:
        """Name and arguments of each tool call."""
        parts = (call.partition(" ") for call in self.calls)
        return [(name, json.loads(arguments or "{}")) for name, _, arguments in parts]


def split_tokens(text: str) -> list[str]:
    """Split a text into tokens: words, and the white space between them."""
    return re.findall(r"\S+|\s+", text)


def count_prompt_tokens(body: Body) -> int:
    """Count the tokens of a conversation, which are words here."""
    parts = [body.get("system"), *(message.get("content") for message in body.get("messages", []))]
    return sum(len(json.dumps(part).split()) for part in parts if part)


def last_user_text(body: Body) -> str:
    """Return the last user text of a conversation; none where the result of a tool came after it.

    A message that is a reminder of the client and nothing else is passed over.
    """
    for message in reversed(body.get("messages", [])):
        content = message.get("content")
        if message.get("role") == "tool":
            return ""
        if message.get("role") != "user" or not isinstance(content, str | list):
            continue
        text = content if isinstance(content, str) else _joined_text(content)
        # blocks without text, such as results of parallel tools, are joined by blanks
        if not text.strip() or REMINDER.sub("", text).strip():
            return text
    return ""


def begun_answer(body: Body) -> str:
    """Return the text of the assistant's message that is to be continued, '' if there is none."""
    if not body.get("continue_final_message"):
        return ""
    assert body.get("add_generation_prompt") is False, "vLLM refuses the two together"
    return str(body["messages"][-1]["content"])


def _joined_text(content: list[Any]) -> str:
    return " ".join(block.get("text") or "" for block in content if isinstance(block, dict))


def last_input_text(body: Body) -> str:
    """Return the last user text of a `/v1/responses` request; none where the result of a tool came after it."""
    given = body.get("input")
    if isinstance(given, str):
        return given
    for item in reversed(given or []):
        content = item.get("content")
        if item.get("type") == "function_call_output":
            return ""
        if item.get("role") == "user":
            return content if isinstance(content, str) else " ".join(part.get("text") or "" for part in content)
    return ""
