"""The bodies and events that vLLM 0.32 sends on each endpoint, made from a script."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from .script import Body, Script, split_tokens

# one in so many prompt tokens was in the prefix cache
CACHED_SHARE = 8
NUMBERS = itertools.count(1)


def new_id(kind: str) -> str:
    """Return an id that was not used before: Claude Code takes messages of one id for one message."""
    return f"chatcmpl-{kind}-{next(NUMBERS)}"


def overflow_message(window: int) -> str:
    """Return vLLM's message about a prompt above the context window."""
    return (
        f"This model's maximum context length is {window} tokens. However, your prompt contains at least {window + 1} "
        "input tokens, which exceeds this limit even without any output tokens. "
        "Please reduce the length of the input prompt."
    )


def _data(value: Body) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


def _event(name: str, /, **fields: Any) -> str:
    return f"event: {name}\n{_data({'type': name, **fields})}"


# /v1/messages


def anthropic_usage(tokens: int, count: int) -> Body:
    """Return the usage: cached tokens are not part of the input tokens."""
    cached = tokens // CACHED_SHARE
    return {"input_tokens": tokens - cached, "cache_read_input_tokens": cached, "output_tokens": count}


def anthropic_message(body: Body, script: Script, tokens: int) -> Body:
    """Return a whole response of /v1/messages."""
    content: list[Body] = [{"type": "text", "text": script.text}] if script.text else []
    for name, arguments in script.tools:
        content.append({"type": "tool_use", "id": new_id("tool"), "name": name, "input": arguments})
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": body["model"],
        "stop_reason": "tool_use" if script.tools else "end_turn",
        "usage": anthropic_usage(tokens, len(script.tokens)),
    }


def anthropic_events(body: Body, script: Script, tokens: int) -> Iterator[str]:
    """Yield the events of a streamed response of /v1/messages."""
    start = {"id": new_id("msg"), "type": "message", "role": "assistant", "content": [], "model": body["model"]}
    usage = {"input_tokens": tokens, "output_tokens": 0}
    yield _event("message_start", message={**start, "stop_reason": None, "stop_sequence": None, "usage": usage})
    first = 0
    if script.text:
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for token in script.tokens:
            yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": token})
        yield _event("content_block_stop", index=0)
        first = 1
    for index, (name, arguments) in enumerate(script.tools, first):
        block = {"type": "tool_use", "id": new_id("tool"), "name": name, "input": {}}
        yield _event("content_block_start", index=index, content_block=block)
        for token in split_tokens(json.dumps(arguments)):
            delta = {"type": "input_json_delta", "partial_json": token}
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    stop = {"stop_reason": "tool_use" if script.tools else "end_turn", "stop_sequence": None}
    yield _event("message_delta", delta=stop, usage=anthropic_usage(tokens, len(script.tokens)))
    yield _event("message_stop")


# /v1/chat/completions and /v1/completions


def openai_usage(tokens: int, count: int) -> Body:
    """Return the usage: cached tokens are part of the prompt tokens."""
    cached = tokens // CACHED_SHARE
    totals = {"prompt_tokens": tokens, "completion_tokens": count, "total_tokens": tokens + count}
    return {**totals, "prompt_tokens_details": {"cached_tokens": cached}}


def chat_completion(body: Body, script: Script, tokens: int) -> Body:
    """Return a whole response of /v1/chat/completions."""
    message: Body = {"role": "assistant", "content": script.text or None, "tool_calls": []}
    for name, arguments in script.tools:
        function = {"name": name, "arguments": json.dumps(arguments)}
        message["tool_calls"].append({"id": new_id("tool"), "type": "function", "function": function})
    return {
        "id": new_id("chat"),
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if script.tools else "stop"}],
        "usage": openai_usage(tokens, len(script.tokens)),
    }


def chat_events(body: Body, script: Script, tokens: int) -> Iterator[str]:
    """Yield the events of a streamed response of /v1/chat/completions."""
    head = {"id": new_id("chat"), "object": "chat.completion.chunk", "created": 1, "model": body["model"]}

    def chunk(delta: Body, finish: str | None = None) -> str:
        return _data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for token in script.tokens:
        yield chunk({"content": token})
    for index, (name, arguments) in enumerate(script.tools):
        begun = {"index": index, "id": new_id("tool"), "type": "function"}
        yield chunk({"tool_calls": [{**begun, "function": {"name": name, "arguments": ""}}]})
        for token in split_tokens(json.dumps(arguments)):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": token}}]})
    yield chunk({}, "tool_calls" if script.tools else "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _data({**head, "choices": [], "usage": openai_usage(tokens, len(script.tokens))})
    yield "data: [DONE]\n\n"


def text_completion(body: Body, text: str, finish: str | None) -> Body:
    """Return a whole response of /v1/completions."""
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {**head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}], "usage": usage}


def completion_events(body: Body, script: Script) -> Iterator[str]:
    """Yield the events of a streamed response of /v1/completions."""
    for token in script.tokens:
        yield f"data: {json.dumps({**text_completion(body, token, None), 'usage': None})}\n\n"
    yield f"data: {json.dumps({**text_completion(body, '', 'stop'), 'usage': None})}\n\n"
    yield "data: [DONE]\n\n"


# /v1/responses


def response_object(body: Body, items: list[Body], tokens: int, output: int) -> Body:
    """Return a whole response of /v1/responses, or the beginning of one while there are no items."""
    usage: Body = {"input_tokens": tokens, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": output}
    usage["output_tokens_details"] = {"reasoning_tokens": 0}
    given: Body = {
        "instructions": None,
        "metadata": None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    return {
        **{name: body.get(name, value) for name, value in given.items()},
        "temperature": 1.0,
        "top_p": 1.0,
        "background": False,
        "incomplete_details": None,
        "error": None,
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": body["model"],
        "status": "completed" if items else "in_progress",
        "output": items,
        "usage": {**usage, "total_tokens": tokens + output} if items else None,
    }


def response_items(script: Script) -> list[Body]:
    """Return the output items of a response."""
    part = {"type": "output_text", "text": script.text, "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    calls = [
        {"id": f"fc_{n}", "call_id": f"call_{n}", "type": "function_call", "name": name, "arguments": json.dumps(given)}
        for n, (name, given) in enumerate(script.tools)
    ]
    return [*([message] if script.text else []), *calls]


def response_events(body: Body, script: Script, tokens: int) -> Iterator[str]:
    """Yield the events of a streamed response of /v1/responses: they have names, and no `[DONE]` follows."""
    items, numbers = response_items(script), itertools.count()

    def event(name: str, /, **fields: Any) -> str:
        return _event(name, sequence_number=next(numbers), **fields)

    for name in ("response.created", "response.in_progress"):
        yield event(name, response=response_object(body, [], tokens, 0))
    for index, item in enumerate(items):
        place = {"item_id": item["id"], "output_index": index}
        empty = {**item, "content": []} if item["type"] == "message" else {**item, "arguments": ""}
        yield event("response.output_item.added", output_index=index, item=empty)
        if item["type"] == "message":
            blank = {"type": "output_text", "text": "", "annotations": []}
            yield event("response.content_part.added", **place, content_index=0, part=blank)
            for token in script.tokens:
                yield event("response.output_text.delta", **place, content_index=0, delta=token, logprobs=[])
            yield event("response.output_text.done", **place, content_index=0, text=script.text, logprobs=[])
            yield event("response.content_part.done", **place, content_index=0, part=item["content"][0])
        else:
            yield event("response.function_call_arguments.delta", **place, delta=item["arguments"])
            ended = {"arguments": item["arguments"], "name": item["name"]}
            yield event("response.function_call_arguments.done", **place, **ended)
        yield event("response.output_item.done", output_index=index, item=item)
    yield event("response.completed", response=response_object(body, items, tokens, len(script.tokens)))
