"""Cases of all dialects: credentials, compressed bodies, paths, limits, errors."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

from .case import ANTHROPIC, CHAT, COUNT, MESSAGES, RESPONSES, Case, finds, holds, refuses, says_exactly, status

OK = {"max_tokens": 60, "messages": [{"role": "user", "content": "SAY[ok]"}]}
# the key that a target gets in the place of this word
KEY = "{key}"
# the model that a target gets in the place of this word
MODEL = "{model}"
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
TOOLS = {
    MESSAGES: {"name": "f", "input_schema": {"type": "object"}},
    CHAT: {"type": "function", "function": FUNCTION},
    RESPONSES: {"type": "function", **FUNCTION},
}


def pack(encoding: str, data: bytes) -> bytes:
    """Compress a body."""
    return zlib.compress(data) if encoding == "deflate" else gzip.compress(data)


def _given(path: str, text: str = "SAY[ok]") -> dict[str, Any]:
    if path == RESPONSES:
        return {"max_output_tokens": 60, "input": text}
    return {"max_tokens": 60, "messages": [{"role": "user", "content": text}]}


CREDENTIALS = tuple(
    Case(f"key: {name}", MESSAGES, OK, (status(wanted),), headers=headers, only_ours=True)
    for name, wanted, headers in (
        ("bearer", 200, {"x-api-key": "", "authorization": f"Bearer {KEY}"}),
        ("right key beside a client's own token", 200, {"authorization": "Bearer sk-ant-oat01-abc", "x-api-key": KEY}),
        ("right token beside another key", 200, {"authorization": f"Bearer {KEY}", "x-api-key": "sk-ant-other"}),
        ("odd white space", 200, {"x-api-key": "", "authorization": f"bearer    {KEY}"}),
        ("both wrong", 401, {"authorization": "Bearer a", "x-api-key": "b"}),
        ("none", 401, {"x-api-key": ""}),
    )
)

COMPRESSED = tuple(
    Case(
        f"{encoding} body on {path}",
        path,
        None,
        (status(200), says_exactly("ok")),
        headers={"content-encoding": encoding, "content-type": "application/json"},
        raw=json.dumps({**_given(path), "model": MODEL}).encode(),
        only_ours=True,
    )
    for encoding in ("gzip", "deflate")
    for path in (MESSAGES, CHAT, RESPONSES)
)

PATHS = (
    Case("path: /v1/v1/messages", "/v1/v1/messages", OK, (status(200),), only_ours=True),
    Case("path: /v1/v1/chat/completions", "/v1/v1/chat/completions", OK, (status(200),), only_ours=True),
    Case("path: //v1/messages", "//v1/messages", OK, (status(200),), only_ours=True),
    Case("path: unknown, OpenAI", "/v1/files", {}, (refuses(404, "/v1/chat/completions"),), only_ours=True),
    Case(
        "path: unknown, Anthropic",
        "/v1/files",
        {},
        (refuses(404, "/v1/messages", anthropic=True),),
        headers=ANTHROPIC,
        only_ours=True,
    ),
    *(
        Case(f"path: {path}, not stored", path, None, (refuses(404, "stored"),), method=method, only_ours=True)
        for method, path in (
            ("GET", "/v1/responses/resp_1"),
            ("DELETE", "/v1/responses/resp_1"),
            ("POST", "/v1/responses/resp_1/cancel"),
            ("GET", "/v1/conversations/conv_1/items"),
            ("GET", "/v1/chat/completions/chatcmpl-1"),
            ("GET", "/v1/files"),
        )
    ),
    Case(
        "path: message batches",
        "/v1/messages/batches",
        {"requests": []},
        (refuses(404, "one by one", anthropic=True),),
        headers=ANTHROPIC,
        only_ours=True,
    ),
    Case("path: wrong method", MESSAGES, None, (refuses(405, "POST", anthropic=True),), method="GET", only_ours=True),
    Case(
        "models: a Claude name",
        "/v1/models/claude-sonnet-4-5",
        None,
        (status(200), finds("type", "model")),
        method="GET",
        headers=ANTHROPIC,
        only_ours=True,
    ),
    Case(
        "models: unknown name, Anthropic",
        "/v1/models/gpt-99",
        None,
        (refuses(404, "gpt-99", anthropic=True),),
        method="GET",
        headers=ANTHROPIC,
        only_ours=True,
    ),
    Case("models: list", "/v1/models", None, (status(200), finds("object", "list")), method="GET"),
    Case(
        "browser: preflight of a page that is not allowed",
        MESSAGES,
        None,
        (refuses(403, "BROWSER_ORIGINS", anthropic=True),),
        method="OPTIONS",
        headers={"origin": "http://localhost:3000", "access-control-request-method": "POST"},
        only_ours=True,
    ),
)

TOOLS_WITHOUT_PARSER = tuple(
    Case(
        f"tools of a model without parser on {path}",
        path,
        {**_given(path, "hello"), "tools": [tool]},
        (status(200), holds("x-bouchet-note", lambda a: "tools were left out" in a.headers.get("x-bouchet-note", ""))),
        model="small",
        only_ours=True,
    )
    for path, tool in TOOLS.items()
)

LIMITS = (
    Case(
        "messages: max_tokens 0",
        MESSAGES,
        {**OK, "max_tokens": 0},
        (status(200), finds("content", []), finds("stop_reason", "max_tokens"), finds("usage.output_tokens", 0)),
    ),
    Case(
        "messages: more stop sequences than OpenAI allows",
        MESSAGES,
        {**OK, "messages": [{"role": "user", "content": "SAY[a b zz c]"}], "stop_sequences": [*"123456", "zz"]},
        (status(200), finds("stop_reason", "stop_sequence"), finds("stop_sequence", "zz")),
    ),
    Case(
        "messages: OpenAI's shape",
        MESSAGES,
        {**OK, "tools": [TOOLS[CHAT]]},
        (refuses(400, CHAT, anthropic=True),),
        only_ours=True,
    ),
    Case(
        "messages: prompt above the window",
        MESSAGES,
        {**OK, "messages": [{"role": "user", "content": "word " * 20_000}]},
        (refuses(400, "prompt is too long", anthropic=True),),
        model="small",
    ),
    Case(
        "count_tokens: answer",
        COUNT,
        {"messages": OK["messages"]},
        (status(200), holds("tokens", lambda a: a.json["input_tokens"] > 0)),
    ),
    *(
        Case(
            f"broken JSON on {path}",
            path,
            None,
            (refuses(400, "JSON", anthropic=path == MESSAGES),),
            raw=b'{"a":',
            only_ours=True,
        )
        for path in (MESSAGES, CHAT, RESPONSES)
    ),
)

CASES = (*CREDENTIALS, *COMPRESSED, *PATHS, *TOOLS_WITHOUT_PARSER, *LIMITS)
