"""Replies of the scripted model: the pure half of the logits processor in scripted.py.

A user's turn holds the script:

    SAY[text]          replies with the text: prose, <think>...</think>; brackets inside have to balance
    CALL[name {json}]  calls that tool; several in one step are parallel calls
    COUNT[n]           replies "1 2 3 ... n", a long and steady stream
    SEEN[words]        replies how often this text occurs in the prompt, besides here
    A THEN B           A now, B after the next tool result or user's turn

`$RESULTS` in a text is the number of tool results since the assistant's last turn. The last turn that holds a script
counts. When its steps are used up a tool's result is repeated. Asked to sum the conversation up, as Claude Code does
when it compacts, the model says what is left of the script, and so goes on with it afterwards. An answer that the
prompt has begun (`continue_final_message`) goes on behind its last word.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

_TURN = "<|im_start|>"
_END = "<|im_end|>"
_DIRECTIVE = re.compile(r"\b(SAY|CALL|COUNT|SEEN)\[")
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
_TOOL_RESPONSE = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
# in the words of Claude Code, and of Codex
_SUM_UP = re.compile(r"detailed summary of (?:the|this) conversation|CONTEXT CHECKPOINT COMPACTION")

Turn = tuple[str, str]
# a directive's name and the content of its brackets
Directive = tuple[str, str]


class ScriptStep(NamedTuple):
    """What to say at once. `rest`: the script from here on, as it was written."""

    directives: list[Directive]
    rest: str


class Prompt:
    """A rendered ChatML prompt: its closed turns, and what the assistant's open turn says already."""

    def __init__(self, text: str) -> None:
        self.turns = _closed_turns(text)
        self.begun = _open_turn(text)

    def results(self) -> list[str]:
        """Return what the tools returned since the assistant's last turn."""
        found: list[str] = []
        for role, text in reversed(self.turns):
            if role == "assistant":
                break
            found = [result.strip() for result in _TOOL_RESPONSE.findall(text)] + found
        return found

    def script(self) -> tuple[int, list[ScriptStep]]:
        """Return the last turn with a script, and its remaining steps; -1 if there is none."""
        for index in range(len(self.turns) - 1, -1, -1):
            role, text = self.turns[index]
            steps = list(_steps(_own_text(text))) if role == "user" else []
            if steps:
                taken = sum(later == "assistant" for later, _ in self.turns[index + 1 :])
                return index, steps[taken:]
        return -1, []

    def wants_summary(self) -> bool:
        """Tell whether the user's last turn asks for a summary of the conversation."""
        for role, text in reversed(self.turns):
            if role == "user" and (text_of_user := _own_text(text).strip()):
                return _SUM_UP.search(text_of_user) is not None
            if role == "assistant":
                break
        return False

    def count(self, words: str) -> int:
        """Count how often a text occurs in the turns, without the questions about it."""
        return sum(text.count(words) - text.count(f"SEEN[{words}]") for _, text in self.turns)


def script_for(prompt: str) -> str | None:
    """Return the reply to a rendered ChatML prompt, or None if nothing is scripted."""
    asked = Prompt(prompt)
    index, steps = asked.script()
    results = asked.results()
    if index >= 0 and index < len(asked.turns) - 1 and asked.wants_summary():
        left = steps[0].rest if steps else "nothing"
        return f"<summary>\nLeft to do: {left}\n</summary>"
    if steps:
        lines = [_render(name, body, asked) for name, body in steps[0].directives]
        return "\n".join(lines).replace("$RESULTS", str(len(results))).removeprefix(asked.begun)
    return "The tool returned: " + " | ".join(results) if results else None


def _closed_turns(prompt: str) -> list[Turn]:
    turns = []
    for part in prompt.split(_TURN)[1:]:
        role, _, text = part.partition("\n")
        if _END in text:
            turns.append((role, text.split(_END)[0]))
    return turns


def _open_turn(prompt: str) -> str:
    """Return the words of the assistant's turn that the prompt leaves open, without an empty block of thoughts."""
    last = prompt.rpartition(_TURN)[2]
    return "" if _END in last else last.partition("\n")[2].removeprefix("<think>\n\n</think>\n\n")


def _own_text(text: str) -> str:
    """Return a turn without what the client adds: tool results, and Claude Code's reminders."""
    return _REMINDER.sub("", _TOOL_RESPONSE.sub("", text))


def _steps(text: str) -> Iterator[ScriptStep]:
    """Split the directives at each THEN."""
    found: list[Directive] = []
    position = begun = 0
    while match := _DIRECTIVE.search(text, position):
        if found and "THEN" in text[position : match.start()]:
            yield ScriptStep(found, text[begun:])
            found = []
        begun = begun if found else match.start()
        body, position = _body(text, match.end())
        found.append((match[1], body))
    if found:
        yield ScriptStep(found, text[begun:])


def _body(text: str, start: int) -> tuple[str, int]:
    """Return the text up to the closing bracket of the one before `start`, and the position after it."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"[": 1, "]": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position], position + 1
    return text[start:], len(text)


def _render(directive: str, body: str, prompt: Prompt) -> str:
    if directive == "COUNT":
        return " ".join(str(number) for number in range(1, int(body) + 1))
    if directive == "SEEN":
        return f"{body}: {prompt.count(body)}"
    if directive == "CALL":
        name, _, arguments = body.partition(" ")
        return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments or "{}"}}}\n</tool_call>'
    return body
