"""What the scripted model has to say to a prompt: the pure half of the logits processor in scripted.py.

A user's turn holds the script:

    SAY[text]          says the text, whatever it is: prose, <think>...</think>; brackets inside have to balance
    CALL[name {json}]  calls that tool; several in one step are parallel calls
    COUNT[n]           says "1 2 3 ... n", a long and steady stream
    A THEN B           A now, B after the next tool result or user's turn

The last turn that holds a script counts. When its steps are used up a tool's result is repeated.
"""

import json
import re
from collections.abc import Iterator

_TURN = "<|im_start|>"
_END = "<|im_end|>"
_DIRECTIVE = re.compile(r"\b(SAY|CALL|COUNT)\[")
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
_TOOL_RESPONSE = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)

Turn = tuple[str, str]


def script_for(prompt: str) -> str | None:
    """The reply to a rendered ChatML prompt, or None where nothing is scripted."""
    turns = _closed_turns(prompt)
    for index in range(len(turns) - 1, -1, -1):
        role, text = turns[index]
        steps = list(_steps(_own_words(text))) if role == "user" else []
        if steps:
            taken = sum(later == "assistant" for later, _ in turns[index + 1 :])
            return steps[taken] if taken < len(steps) else _tool_results(turns)
    return _tool_results(turns)


def _closed_turns(prompt: str) -> list[Turn]:
    turns = []
    for part in prompt.split(_TURN)[1:]:
        role, _, text = part.partition("\n")
        if _END in text:
            turns.append((role, text.split(_END)[0]))
    return turns


def _own_words(text: str) -> str:
    """A turn without what the client adds to it: tool results, and the reminders of Claude Code."""
    return _REMINDER.sub("", _TOOL_RESPONSE.sub("", text))


def _tool_results(turns: list[Turn]) -> str | None:
    """What the tools returned since the assistant spoke last."""
    results: list[str] = []
    for role, text in reversed(turns):
        if role == "assistant":
            break
        results = [result.strip() for result in _TOOL_RESPONSE.findall(text)] + results
    return "The tool returned: " + " | ".join(results) if results else None


def _steps(text: str) -> Iterator[str]:
    """What to say at each step: the directives up to a THEN, a line each."""
    said: list[str] = []
    position = 0
    while match := _DIRECTIVE.search(text, position):
        if said and "THEN" in text[position : match.start()]:
            yield "\n".join(said)
            said = []
        body, position = _body(text, match.end())
        said.append(_render(match[1], body))
    if said:
        yield "\n".join(said)


def _body(text: str, start: int) -> tuple[str, int]:
    """The text up to the bracket that closes the one before `start`, and the position after that bracket."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"[": 1, "]": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position], position + 1
    return text[start:], len(text)


def _render(directive: str, body: str) -> str:
    if directive == "COUNT":
        return " ".join(str(number) for number in range(1, int(body) + 1))
    if directive == "CALL":
        name, _, arguments = body.partition(" ")
        return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments or "{}"}}}\n</tool_call>'
    return body
