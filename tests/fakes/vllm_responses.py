"""What the look-alike of vLLM says on `/v1/responses`, as vLLM 0.32 does: named events, `[DONE]` nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def last_input(body: dict[str, Any]) -> str:
    """The last text of the user's."""
    given = body.get("input")
    if isinstance(given, str):
        return given
    for item in reversed(given or []):
        content = item.get("content")
        if item.get("role") == "user":
            return content if isinstance(content, str) else " ".join(part.get("text") or "" for part in content)
    return ""


def whole_response(body: dict[str, Any], items: list[dict[str, Any]], tokens: int, output: int) -> dict[str, Any]:
    """The answer, or the beginning of one while there are no items."""
    usage = {"input_tokens": tokens, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": output}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": body["model"],
        "status": "completed" if items else "in_progress",
        "output": items,
        "usage": {**usage, "total_tokens": tokens + output} if items else None,
    }


def response_items(text: str, tools: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """What the answer consists of."""
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    calls = [
        {"id": f"fc_{n}", "call_id": f"call_{n}", "type": "function_call", "name": name, "arguments": json.dumps(given)}
        for n, (name, given) in enumerate(tools)
    ]
    return [*([message] if text else []), *calls]


def response_events(
    body: dict[str, Any], text: str, pieces: list[str], tools: list[tuple[str, dict[str, Any]]], tokens: int
) -> Iterator[str]:
    """The same as a stream."""
    items, number = response_items(text, tools), 0

    def event(name: str, **data: Any) -> str:
        nonlocal number
        number += 1
        whole = {**data, "sequence_number": number - 1, "type": name}
        return f"event: {name}\ndata: {json.dumps(whole, separators=(',', ':'))}\n\n"

    for name in ("response.created", "response.in_progress"):
        yield event(name, response=whole_response(body, [], tokens, 0))
    for index, item in enumerate(items):
        place = {"item_id": item["id"], "output_index": index}
        empty = {**item, "content": []} if item["type"] == "message" else {**item, "arguments": ""}
        yield event("response.output_item.added", output_index=index, item=empty)
        if item["type"] == "message":
            blank = {"type": "output_text", "text": "", "annotations": []}
            yield event("response.content_part.added", **place, content_index=0, part=blank)
            for piece in pieces:
                yield event("response.output_text.delta", **place, content_index=0, delta=piece, logprobs=[])
            yield event("response.output_text.done", **place, content_index=0, text=text, logprobs=[])
            yield event("response.content_part.done", **place, content_index=0, part=item["content"][0])
        else:
            yield event("response.function_call_arguments.delta", **place, delta=item["arguments"])
            yield event("response.function_call_arguments.done", **place, arguments=item["arguments"])
        yield event("response.output_item.done", output_index=index, item=item)
    yield event("response.completed", response=whole_response(body, items, tokens, len(pieces)))
