"""Cases of OpenAI's chats, completions and responses: what SDKs, harnesses and agents really send."""

from __future__ import annotations

import base64
import json
from typing import Any

from .case import (
    CHAT,
    COMPLETIONS,
    INPUT_TOKENS,
    RESPONSES,
    Answer,
    Case,
    finds,
    holds,
    refuses,
    says,
    says_exactly,
    status,
)

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
STRICT_LINT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "lint",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "boolean"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}
NAMED_STRICT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "lint",
        "parameters": {
            "type": "object",
            "properties": {"strict": {"type": "boolean", "description": "fail on warnings"}},
            "required": ["strict"],
        },
    },
}
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
ZEBRA = "data:text/plain;base64," + base64.b64encode(b"zebra42").decode()


def chat(name: str, text: str, *checks: Any, model: str = "scripted", **fields: Any) -> Case:
    """Return a chat of one user message."""
    body = {"max_tokens": 60, "messages": [{"role": "user", "content": text}], **fields}
    return Case(f"chat: {name}", CHAT, body, checks, model=model)


def parts(name: str, *content: dict[str, Any], checks: tuple[Any, ...]) -> Case:
    """Return a chat whose user message has parts."""
    body = {"max_tokens": 60, "messages": [{"role": "user", "content": [*content]}]}
    return Case(f"chat: {name}", CHAT, body, checks)


def responses(name: str, given: Any, *checks: Any, **fields: Any) -> Case:
    """Return a request of the responses API."""
    return Case(f"responses: {name}", RESPONSES, {"max_output_tokens": 60, "input": given, **fields}, checks)


def text(content: str, kind: str = "text") -> dict[str, Any]:
    """Return a text part."""
    return {"type": kind, "text": content}


def _all_finish(answer: Answer) -> bool:
    finished = {
        choice["index"]: choice["finish_reason"]
        for event in answer.events
        for choice in event["choices"]
        if choice.get("finish_reason")
    }
    return finished == {0: "stop", 1: "stop"}


def _arguments(answer: Answer) -> Any:
    return json.loads(answer.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])


CHATS = (
    chat("answer", "SAY[hello you]", status(200), says_exactly("hello you"), finds("choices.0.finish_reason", "stop")),
    chat("stream", "COUNT[5]", status(200), says_exactly("1 2 3 4 5"), stream=True),
    chat("parameter named strict reaches the model", "SEEN[fail on warnings]", says("1"), tools=[NAMED_STRICT]),
    chat(
        "strict tool is enforced",
        "go",
        holds("boolean argument", lambda a: isinstance(_arguments(a)["a"], bool)),
        tools=[STRICT_LINT],
        tool_choice="required",
        max_tokens=200,
    ),
    chat("n=2 whole", "SAY[a b]", holds("two choices", lambda a: len(a.json["choices"]) == 2), n=2),
    chat("n=2 streamed, both finish", "SAY[a b]", holds("both finish", _all_finish), n=2, stream=True),
    chat(
        "log-probabilities",
        "SAY[a b]",
        holds("logprobs", lambda a: len(a.json["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2),
        logprobs=True,
        top_logprobs=2,
    ),
    chat(
        "response_format json_schema",
        "What colour?",
        holds("colour", lambda a: json.loads(a.text)["colour"] in ("red", "green")),
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": COLOUR, "strict": True}},
        max_tokens=200,
    ),
    chat(
        "parallel tool calls",
        'CALL[weather {"city": "Paris"}] CALL[weather {"city": "Rome"}]',
        holds("two calls", lambda a: len(a.json["choices"][0]["message"]["tool_calls"]) == 2),
        tools=[FUNCTION],
    ),
    chat(
        "usage in a stream",
        "SAY[a]",
        holds("usage", lambda a: a.events[-1]["usage"]["prompt_tokens"] > 0),
        stream=True,
        stream_options={"include_usage": True},
    ),
    chat(
        "no usage unless asked",
        "SAY[a]",
        holds("none", lambda a: not any(e.get("usage") for e in a.events)),
        stream=True,
    ),
    chat("stream_options without stream", "SAY[a]", status(200), stream_options={"include_usage": True}),
    chat("max_tokens 0", "SAY[a]", status(200), finds("choices.0.finish_reason", "length"), max_tokens=0),
    chat("max_tokens beyond the window", "SAY[fits]", says_exactly("fits"), max_tokens=10**6),
    chat("many stop strings", "SAY[a b zz c]", status(200, 400), stop=[f"s{n}" for n in range(6)] + ["zz"]),
    chat("tools of a model without parser", "hello", status(200), model="small", tools=[FUNCTION]),
    chat("tools of OpenAI's servers", "SAY[ok]", says_exactly("ok"), tools=[FUNCTION, {"type": "web_search"}]),
    chat(
        "flat tool", "SAY[ok]", refuses(400, "tools[0].function", "missing"), tools=[{"type": "function", "name": "f"}]
    ),
    chat("field of a wrong type", "SAY[ok]", refuses(400, "seed"), seed="x"),
    chat("unknown model", "SAY[ok]", refuses(404, "gpt-99"), model="gpt-99"),
    parts("input_text", text("SAY[ok]", "input_text"), checks=(status(200), says_exactly("ok"))),
    parts(
        "image to a text model",
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}},
        text("SAY[ok]"),
        checks=(status(200), says_exactly("ok")),
    ),
    parts(
        "audio to a text model",
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        text("SAY[ok]"),
        checks=(status(200), says_exactly("ok")),
    ),
    parts(
        "file of text reaches the model",
        {"type": "file", "file": {"filename": "a.txt", "file_data": ZEBRA}},
        text("SEEN[zebra42]"),
        checks=(says("1"),),
    ),
    parts("unknown part", {"type": "made_up", "x": 1}, text("SAY[ok]"), checks=(status(200, 400),)),
    Case(
        "chat: developer message reaches the model",
        CHAT,
        {
            "max_tokens": 60,
            "messages": [{"role": "developer", "content": "zebra42"}, {"role": "user", "content": "SEEN[zebra42]"}],
        },
        (says("1"),),
    ),
    Case(
        "chat: system message midway reaches the model",
        CHAT,
        {
            "max_tokens": 60,
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "y"},
                {"role": "system", "content": "zebra42"},
                {"role": "user", "content": "SEEN[zebra42]"},
            ],
        },
        (says("1"),),
    ),
    Case(
        "chat: continue_final_message",
        CHAT,
        {
            "max_tokens": 4,
            "temperature": 0,
            "add_generation_prompt": False,
            "continue_final_message": True,
            "messages": [
                {"role": "user", "content": "Capital of France?"},
                {"role": "assistant", "content": "The capital of France is"},
            ],
        },
        (says("Paris"),),
        model="small",
    ),
    Case("chat: prompt of completions", CHAT, {"prompt": "x"}, (refuses(400, COMPLETIONS),)),
    Case(
        "chat: Anthropic's shape",
        CHAT,
        {"system": "x", "messages": [{"role": "user", "content": "x"}]},
        (refuses(400, "/v1/messages"),),
        only_ours=True,
    ),
)

COMPLETION_CASES = (
    Case(
        "completions: scoring by echo",
        COMPLETIONS,
        {"prompt": "The capital of France is", "max_tokens": 0, "echo": True, "logprobs": 1},
        (status(200), holds("logprobs", lambda a: len(a.json["choices"][0]["logprobs"]["token_logprobs"]) >= 5)),
        model="small",
    ),
    Case(
        "completions: prompt_logprobs",
        COMPLETIONS,
        {"prompt": "The capital", "max_tokens": 1, "prompt_logprobs": 0},
        (status(200), holds("prompt_logprobs", lambda a: len(a.json["choices"][0]["prompt_logprobs"]) >= 2)),
        model="small",
    ),
    Case(
        "completions: list of prompts",
        COMPLETIONS,
        {"prompt": ["a", "b"], "max_tokens": 2},
        (status(200), holds("two", lambda a: len(a.json["choices"]) == 2)),
        model="small",
    ),
    Case("completions: token ids", COMPLETIONS, {"prompt": [1, 2, 3], "max_tokens": 2}, (status(200),), model="small"),
    Case(
        "completions: max_tokens 0",
        COMPLETIONS,
        {"prompt": "a", "max_tokens": 0},
        (status(200), finds("choices.0.text", "")),
        model="small",
    ),
)

HELLO = {"type": "message", "role": "user", "content": "x"}
SAY_OK = {"type": "message", "role": "user", "content": "SAY[ok]"}
SEEN = {"type": "message", "role": "user", "content": "SEEN[zebra42]"}
SHELL = {
    "type": "function",
    "name": "shell",
    "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}},
}

RESPONSE_CASES = (
    responses("answer", "SAY[ok]", status(200), says_exactly("ok"), finds("status", "completed")),
    responses("stream", "COUNT[5]", status(200), says_exactly("1 2 3 4 5"), stream=True),
    responses(
        "encrypted reasoning is left out",
        [HELLO, {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"}, SAY_OK],
        says_exactly("ok"),
    ),
    responses(
        "reasoning with a summary",
        [
            HELLO,
            {
                "type": "reasoning",
                "id": "rs_1",
                "encrypted_content": "abc",
                "summary": [{"type": "summary_text", "text": "hm"}],
            },
            SAY_OK,
        ],
        says_exactly("ok"),
    ),
    responses(
        "web search of another server",
        [
            HELLO,
            {
                "type": "web_search_call",
                "id": "ws_1",
                "status": "completed",
                "action": {"type": "search", "query": "q"},
            },
            SAY_OK,
        ],
        says_exactly("ok"),
    ),
    responses(
        "image generation of another server",
        [HELLO, {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "aaaa"}, SAY_OK],
        says_exactly("ok"),
    ),
    responses(
        "custom tool of another server",
        [
            HELLO,
            {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "zebra42"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "zebra42"},
            SEEN,
        ],
        says("2"),
    ),
    responses(
        "local shell of another server",
        [
            HELLO,
            {
                "type": "local_shell_call",
                "id": "l",
                "call_id": "c",
                "status": "completed",
                "action": {"type": "exec", "command": ["zebra42"]},
            },
            {"type": "local_shell_call_output", "call_id": "c", "output": "zebra42"},
            SEEN,
        ],
        says("2"),
    ),
    responses(
        "mcp call of another server",
        [
            HELLO,
            {
                "type": "mcp_call",
                "id": "m",
                "name": "find",
                "server_label": "s",
                "arguments": "{}",
                "output": "zebra42",
            },
            SEEN,
        ],
        says("1"),
    ),
    responses(
        "encrypted compaction", [HELLO, {"type": "compaction", "encrypted_content": "x"}, SAY_OK], says_exactly("ok")
    ),
    responses(
        "developer message reaches the model",
        [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "zebra42"}]}, SEEN],
        says("1"),
    ),
    responses(
        "answer of several parts reaches the model",
        [
            HELLO,
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a "}, {"type": "output_text", "text": "zebra42"}],
            },
            SEEN,
        ],
        says("1"),
    ),
    responses(
        "tool result of parts",
        [
            HELLO,
            {"type": "function_call", "call_id": "c", "name": "shell", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "zebra42"}]},
            SEEN,
        ],
        says("1"),
        tools=[SHELL],
    ),
    responses(
        "file of text reaches the model",
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_file", "filename": "a.txt", "file_data": ZEBRA},
                    {"type": "input_text", "text": "SEEN[zebra42]"},
                ],
            }
        ],
        says("1"),
    ),
    responses("item reference", [{"type": "item_reference", "id": "msg_1"}, SAY_OK], refuses(400, "store")),
    responses("conversation", "SAY[ok]", refuses(400, "conversation"), conversation="conv_1"),
    responses("previous response", "SAY[ok]", refuses(400, "previous_response_id"), previous_response_id="resp_1"),
    responses("background", "SAY[ok]", refuses(400, "background"), background=True),
    responses(
        "tool call",
        'CALL[shell {"cmd": "ls"}]',
        holds("call", lambda a: "function_call" in [item["type"] for item in a.json["output"]]),
        tools=[SHELL],
    ),
    responses("include that only OpenAI has", "SAY[ok]", says_exactly("ok"), include=["reasoning.encrypted_content"]),
    responses("prompt template alone", None, refuses(400, "stored"), prompt={"id": "pmpt_1"}),
    Case(
        "responses: input tokens",
        INPUT_TOKENS,
        {"instructions": "be kind", "input": [HELLO, SAY_OK], "tools": [SHELL]},
        (status(200), finds("object", "response.input_tokens"), holds("tokens", lambda a: a.json["input_tokens"] > 5)),
        only_ours=True,
    ),
    Case("responses: no input", RESPONSES, {}, (refuses(400, "input"),)),
    Case("responses: messages of chats", RESPONSES, {"messages": []}, (refuses(400, CHAT),), only_ours=True),
)

CASES = (*CHATS, *COMPLETION_CASES, *RESPONSE_CASES)
