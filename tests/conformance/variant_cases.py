"""Other shapes of what people reported: histories, tools, choices and bodies that clients really send, in each dialect.

Each is a variant of a kind that another table has one example of. All are answered by a scripted model.
"""

from __future__ import annotations

from typing import Any

from .case import CHAT, COMPLETIONS, COUNT, EMBEDDINGS, MESSAGES, RESPONSES, Case, Check, holds, refuses, says, status

SCHEMA = {"type": "object", "properties": {"cmd": {"type": "string"}}}
FUNCTIONS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("shell", "clock")]
FLAT = [{"type": "function", "name": name, "parameters": SCHEMA} for name in ("shell", "clock")]
TOOLS = [{"name": name, "input_schema": SCHEMA} for name in ("shell", "clock")]
ASKED = {"role": "user", "content": "list the files"}
SEEN, OK = {"role": "user", "content": "SEEN[zebra42]"}, {"role": "user", "content": "SAY[ok]"}
ONCE, ANSWERED = (status(200), says("1")), (status(200), says("ok"))
# what models write in the place of arguments: nothing, a part, a text, a value
BROKEN = ("", '{"cmd": "ls', "ls -l", '["ls"]', "null")
HALF = r'{"model": "{model}", "max_tokens": 60, "messages": [{"role": "user", "content": "\ud83d SAY[ok]"}]}'


def turns(name: str, path: str, *messages: Any, checks: tuple[Check, ...] = ANSWERED, **fields: Any) -> Case:
    """Return a conversation in the dialect of the path."""
    key = "input" if path == RESPONSES else "messages"
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    return Case(f"variant: {name} on {path}", path, {limit: 60, key: [*messages], **fields}, checks, only_ours=True)


def refused(name: str, path: str, body: dict[str, Any], *text: str) -> Case:
    """Return a body that is refused with these words."""
    anthropic = path in (MESSAGES, COUNT)
    return Case(f"variant: {name}", path, body, (refuses(400, *text, anthropic=anthropic),), only_ours=True)


def _calls(*names: str) -> Check:
    def found(answer: Any) -> bool:
        calls = answer.json["choices"][0]["message"]["tool_calls"]
        return [call["function"]["name"] for call in calls] == [*names]

    return holds(f"calls of {names}", found)


HISTORIES = (
    *(
        turns(
            f"arguments {written!r}",
            CHAT,
            ASKED,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "shell", "arguments": written}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "no such call"},
            OK,
            tools=FUNCTIONS,
        )
        for written in BROKEN
    ),
    *(
        turns(
            f"arguments {written!r}",
            RESPONSES,
            ASKED,
            {"type": "function_call", "call_id": "c", "name": "shell", "arguments": written},
            {"type": "function_call_output", "call_id": "c", "output": "no such call"},
            OK,
            tools=FLAT,
        )
        for written in BROKEN
    ),
    *(
        turns(
            f"input {written!r}",
            MESSAGES,
            ASKED,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "shell", "input": written}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "no such call"}]},
            OK,
            tools=TOOLS,
        )
        for written in BROKEN
    ),
    turns("refusal", CHAT, ASKED, {"role": "assistant", "content": None, "refusal": "zebra42"}, SEEN, checks=ONCE),
    turns(
        "nothing but redacted thinking",
        MESSAGES,
        ASKED,
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]},
        OK,
    ),
    turns("part of responses", MESSAGES, {"role": "user", "content": [{"type": "input_text", "text": "SAY[ok]"}]}),
    *(
        turns(f"system block {block.get('type')}", MESSAGES, SEEN, checks=ONCE, system=[block])
        for block in (
            {"text": "zebra42"},
            {"type": "input_text", "text": "zebra42"},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "zebra42"}},
        )
    ),
    Case(
        "variant: half of a character",
        MESSAGES,
        None,
        ANSWERED,
        headers={"content-type": "application/json"},
        raw=HALF.encode(),
        only_ours=True,
    ),
)

_ALLOWED = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "clock"}}]}
CHOICES = (
    turns(
        "allowed tools",
        CHAT,
        {"role": "user", "content": "SEEN[shell]"},
        checks=(status(200), says("0")),
        tools=FUNCTIONS,
        tool_choice={"type": "allowed_tools", "allowed_tools": _ALLOWED},
    ),
    turns(
        "allowed tools, one is called",
        CHAT,
        {"role": "user", "content": 'CALL[clock {"cmd": "now"}]'},
        checks=(status(200), _calls("clock")),
        tools=FUNCTIONS,
        tool_choice={"type": "allowed_tools", "allowed_tools": _ALLOWED},
    ),
    turns(
        "allowed tools",
        RESPONSES,
        {"role": "user", "content": "SEEN[shell]"},
        checks=(status(200), says("0")),
        tools=FLAT,
        tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "clock"}]},
    ),
    *(turns("top_p 0", path, OK, top_p=0) for path in (MESSAGES, CHAT, RESPONSES)),
    turns("no thinking", MESSAGES, OK, thinking={"type": "disabled"}),
)

CROSSINGS = (
    refused("stop at messages", MESSAGES, {"messages": [OK], "stop": ["x"]}, "stop_sequences"),
    refused("n at messages", MESSAGES, {"messages": [OK], "n": 2}, CHAT),
    refused("functions of responses at messages", MESSAGES, {"messages": [OK], "tools": FLAT}, "input_schema"),
    refused("choice of chats at messages", MESSAGES, {"messages": [OK], "tool_choice": {"type": "required"}}, "any"),
    refused("instructions at count_tokens", COUNT, {"messages": [OK], "instructions": "x"}, "system"),
    refused("stop_sequences at chats", CHAT, {"messages": [OK], "stop_sequences": ["x"]}, "`stop`"),
    refused("choice of messages at chats", CHAT, {"messages": [OK], "tool_choice": {"type": "any"}}, MESSAGES),
    refused("parts of Gemini at chats", CHAT, {"messages": [{"role": "user", "parts": []}]}, "generateContent"),
    refused("items of responses at chats", CHAT, {"messages": [{"type": "function_call_output"}]}, RESPONSES),
    refused("contents at chats", CHAT, {"contents": {"parts": [{"text": "x"}]}}, "generateContent"),
    refused("schema without its place", CHAT, {"messages": [OK], "response_format": {"type": "json_schema"}}, "schema"),
    refused("response_format at responses", RESPONSES, {"input": "x", "response_format": {"type": "text"}}, "text."),
    refused("texts of embeddings at responses", RESPONSES, {"input": ["a", "b"]}, EMBEDDINGS),
    refused("system at responses", RESPONSES, {"input": "x", "system": "y"}, "instructions"),
    refused("messages at completions", COMPLETIONS, {"messages": [OK], "system": "x"}, MESSAGES),
    refused("conversation as a prompt", COMPLETIONS, {"prompt": [OK]}, CHAT),
    refused("items at embeddings", EMBEDDINGS, {"input": [OK]}, RESPONSES),
)

CASES = (*HISTORIES, *CHOICES, *CROSSINGS)
