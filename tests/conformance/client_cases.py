"""The shapes of requests of clients that are not driven here, written after their public sources: no recordings."""

from __future__ import annotations

from typing import Any

from .case import CHAT, Case, holds, says_exactly, status

SYSTEM = {"role": "system", "content": "You are a careful assistant."}
READ = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file",
        "parameters": {"type": "object", "properties": {"filepath": {"type": "string"}}, "required": ["filepath"]},
    },
}
ENDS_IN_USAGE = holds("usage at the end", lambda a: a.events[-1]["usage"]["total_tokens"] > 0)
CALLS_READ = holds(
    "one call",
    lambda a: a.json["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "read_file",
)


def _parts(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


CASES = (
    # tools are described in the system prompt, and the surroundings are a second part
    Case(
        "client: Cline, a task",
        CHAT,
        {
            "messages": [SYSTEM, _parts("<task>\nSAY[ok]\n</task>", "<environment_details>none</environment_details>")],
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        (status(200), says_exactly("ok"), ENDS_IN_USAGE),
    ),
    Case(
        "client: Continue, agent mode",
        CHAT,
        {
            "messages": [SYSTEM, {"role": "user", "content": 'CALL[read_file {"filepath": "a.py"}]'}],
            "max_tokens": 400,
            "stream": False,
            "tools": [READ],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
        },
        (status(200), CALLS_READ),
    ),
    Case(
        "client: Open WebUI, a chat",
        CHAT,
        {
            "messages": [{"role": "user", "content": "SAY[ok]"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "metadata": {"chat_id": "c", "features": {}},
            "user": "u",
        },
        (status(200), says_exactly("ok"), ENDS_IN_USAGE),
    ),
    Case(
        "client: Open WebUI, the title of a chat",
        CHAT,
        {
            "messages": [{"role": "user", "content": "### Task:\nGenerate a title.\nSAY[ok]"}],
            "stream": False,
            "max_completion_tokens": 1000,
        },
        (status(200), says_exactly("ok")),
    ),
)
