"""Gemini's `generateContent`: what is put right in a body before LiteLLM translates it to a chat, and after. Pure.

LiteLLM's translation (backends/litellm_gemini.py) reads one system part, one spelling of each name, and few kinds of
parts; it gives every call of a function the same id, and puts a person's words before the results that come with them.
So a body gets one spelling and readable parts here, and the chat gets the ids and the fields that are missing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from .endpoints import Endpoint, InvalidBodyError
from .left_out import FILE_NOTE, PART_NOTE, decode_text_url
from .shapes import wrong_shape
from .tokens import Body

# Google reads both spellings of a name; these are the ones that matter here
_SNAKE = re.compile(r"_([a-z])")
# what is data of a person or a schema, and keeps its names
_OPAQUE = frozenset(("args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema"))
# names of Google -> names of OpenAI's chats and vLLM, for what LiteLLM does not carry over
_SAMPLING = {
    "topK": "top_k",
    "seed": "seed",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}
_JSON, _ENUM = "application/json", "text/x.enum"
MAX_TYPE_CHARS = 40
# of renaming; a body is not read deeper than this
MAX_LEVELS = 40


def check_gemini(value: object) -> Body:
    """Return the body of a request in Google's first spelling. Raises InvalidBodyError."""
    if not isinstance(value, dict):
        raise InvalidBodyError("the request body must be a JSON object")
    body: Body = _rename(value, MAX_LEVELS)
    # countTokens may have the whole request inside
    inner = body.get("generateContentRequest")
    body = _with_lists({**body, **inner} if isinstance(inner, dict) else body)
    if invalid := next(_invalid_fields(body), None):
        raise InvalidBodyError(invalid)
    return body


def _with_lists(body: Body) -> Body:
    """Return the body with a list where Google also reads one object: its own examples have both."""
    lists = {name: [body[name]] for name in ("contents", "tools") if isinstance(body.get(name), dict)}
    body = {**body, **lists}
    if isinstance(contents := body.get("contents"), list):
        body["contents"] = [_with_part_list(content) for content in contents]
    return {**body, "systemInstruction": _with_part_list(body.get("systemInstruction"))}


def _with_part_list(content: Any) -> Any:
    if isinstance(content, dict) and isinstance(content.get("parts"), dict):
        return {**content, "parts": [content["parts"]]}
    return content


def _rename(value: Any, levels: int) -> Any:
    if isinstance(value, list):
        return [_rename(item, levels - 1) for item in value] if levels else value
    if not isinstance(value, dict) or not levels:
        return value
    names = {key: _SNAKE.sub(lambda found: found[1].upper(), key) for key in value}
    return {name: value[key] if name in _OPAQUE else _rename(value[key], levels - 1) for key, name in names.items()}


def _invalid_fields(body: Body) -> Iterator[str]:
    contents, tools, config = body.get("contents"), body.get("tools"), body.get("generationConfig")
    if sentence := wrong_shape(Endpoint.GENERATE_CONTENT, body):
        yield sentence
    if not isinstance(contents, list) or not all(isinstance(content, dict) for content in contents):
        yield "contents: must be a list of objects"
    elif not any(content.get("parts") for content in contents):
        yield "contents: must have at least one part"
    else:
        yield from _invalid_parts(contents)
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        yield "tools: must be a list of objects"
    else:
        yield from _invalid_tools(tools or [])
    for name in ("generationConfig", "toolConfig"):
        if body.get(name) is not None and not isinstance(body[name], dict):
            yield f"{name}: must be an object"
    limit = config.get("maxOutputTokens") if isinstance(config, dict) else None
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        yield "generationConfig.maxOutputTokens: must be a whole number of at least 0"


def _invalid_tools(tools: list[Body]) -> Iterator[str]:
    for index, tool in enumerate(tools):
        declared = tool.get("functionDeclarations")
        if declared is not None and not isinstance(declared, list):
            yield f"tools[{index}].functionDeclarations: must be a list of objects"
            continue
        for number, one in enumerate(declared or ()):
            if not isinstance(one, dict) or not isinstance(one.get("name"), str):
                yield f"tools[{index}].functionDeclarations[{number}]: must be an object with a name"


def _invalid_parts(contents: list[Body]) -> Iterator[str]:
    for index, content in enumerate(contents):
        parts = content.get("parts")
        if parts is not None and not (isinstance(parts, list) and all(isinstance(part, dict) for part in parts)):
            yield f"contents[{index}].parts: must be a list of objects"
            continue
        for number, part in enumerate(parts or ()):
            place = f"contents[{index}].parts[{number}]"
            if part.get("text") is not None and not isinstance(part["text"], str):
                yield f"{place}.text: must be a string"
            for name in ("functionCall", "functionResponse"):
                call = part.get(name)
                if call is not None and not (isinstance(call, dict) and isinstance(call.get("name"), str)):
                    yield f"{place}.{name}: must be an object with a name"


# before the translation


def readable_request(body: Body) -> Body:
    """Return a checked body as LiteLLM translates it whole."""
    contents, called = list[Body](), list[Any]()
    for content in body["contents"]:
        contents += _readable_content(content, called)
        if content.get("role") == "model":
            called = [part["functionCall"].get("id") for part in _parts(content) if part.get("functionCall")]
    kept = {**body, "contents": contents, "tools": list(_functions(body))}
    text = "\n\n".join(part["text"] for part in _parts(body.get("systemInstruction")) if part.get("text"))
    return {**kept, "systemInstruction": {"parts": [{"text": text}]} if text else None}


def _readable_content(content: Body, called: list[Any]) -> Iterator[Body]:
    """Yield the content without what the model cannot read; results of functions come before other parts.

    called: the ids of the calls before it. LiteLLM gives each result to the first call of its name, so they are put
    into the order of the calls.
    """
    if content.get("role") == "model":
        parts = [_readable_part(part) for part in _parts(content) if not part.get("thought")]
        if parts:
            yield {"role": "model", "parts": parts}
        return
    results = [part["functionResponse"] for part in _parts(content) if part.get("functionResponse")]
    within = [part for result in results for part in _parts(result)]
    others = [_readable_part(part) for part in [*within, *_parts(content)] if not part.get("functionResponse")]
    if results:
        places = {one: place for place, one in enumerate(called) if isinstance(one, str)}
        results.sort(key=lambda result: places.get(str(result.get("id")), len(called)))
        yield {"role": "user", "parts": [{"functionResponse": result} for result in results]}
    if others:
        yield {"role": "user", "parts": others}


def _parts(content: Any) -> list[Body]:
    if isinstance(content, str):
        return [{"text": content}]
    parts = content.get("parts") if isinstance(content, dict) else None
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _readable_part(part: Body) -> Body:
    if isinstance(part.get("text"), str):
        return {"text": part["text"]}
    if part.get("functionCall"):
        return {"functionCall": part["functionCall"]}
    if isinstance(data := part.get("inlineData"), dict):
        return _readable_data(data)
    if isinstance(file := part.get("fileData"), dict):
        name = file.get("displayName") or file.get("fileUri")
        return {"text": FILE_NOTE.format(f" ({str(name)[:200]})" if name else "")}
    for name, field in (("executableCode", "code"), ("codeExecutionResult", "output")):
        if isinstance(found := part.get(name), dict):
            return {"text": str(found.get(field) or "")}
    kind = next((name for name in part if name not in ("thoughtSignature", "thought")), "an unknown type")
    return {"text": PART_NOTE.format(kind[:MAX_TYPE_CHARS])}


def _readable_data(data: Body) -> Body:
    """Return an image as LiteLLM names it, a file of text as its text, and a note for anything else."""
    kind = str(data.get("mimeType") or "image/jpeg")
    if kind.startswith("image/"):
        return {"inline_data": {"mime_type": kind, "data": str(data.get("data") or "")}}
    text = decode_text_url(f"data:{kind};base64,{data.get('data')}")
    if text is None:
        return {"text": PART_NOTE.format(kind[:MAX_TYPE_CHARS])}
    return {"text": text}


def _functions(body: Body) -> Iterator[Body]:
    """Yield the tools with functions, and only those that the caller allows to be called where it names some."""
    allowed = _allowed_names(body)
    for tool in body.get("tools") or ():
        kept = [one for one in tool.get("functionDeclarations") or () if not allowed or one["name"] in allowed]
        if kept:
            yield {"functionDeclarations": kept}


def _allowed_names(body: Body) -> frozenset[str]:
    config = body.get("toolConfig") or {}
    calling = config.get("functionCallingConfig") if isinstance(config, dict) else None
    if not isinstance(calling, dict) or calling.get("mode") != "ANY":
        return frozenset()
    names = calling.get("allowedFunctionNames")
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


# after the translation


def complete_chat(chat: Body, body: Body, *, stream: bool) -> Body:
    """Return the chat that LiteLLM made of a checked body, with what it left out."""
    given = body.get("generationConfig")
    config: Mapping[str, Any] = given if isinstance(given, dict) else {}
    fields = {ours: config[name] for name, ours in _SAMPLING.items() if config.get(name) is not None}
    if config.get("candidateCount") is not None:
        fields["n"] = 1
    if config.get("responseMimeType") == _JSON and "response_format" not in chat:
        fields["response_format"] = {"type": "json_object"}
    schema = config.get("responseSchema")
    if config.get("responseMimeType") == _ENUM and isinstance(schema, dict) and isinstance(schema.get("enum"), list):
        fields["structured_outputs"] = {"choice": schema["enum"]}
    thinking = config.get("thinkingConfig")
    if isinstance(thinking, dict) and thinking.get("thinkingBudget") == 0:
        fields["reasoning_effort"] = "none"
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    others = [{"type": name} for tool in body.get("tools") or () for name in tool if name != "functionDeclarations"]
    if others:
        # the rules of chats leave them out, and say so
        fields["tools"] = [*(chat.get("tools") or ()), *others]
    return {**chat, **fields, **_continuation(body), "messages": number_calls(chat["messages"])}


def _continuation(body: Body) -> Body:
    """Return what makes vLLM go on with the words of the model that a conversation ends with, as Google's models do."""
    last = body["contents"][-1] if body.get("contents") else {}
    spoken = [part for part in _parts(last) if not part.get("thought")]
    if last.get("role") != "model" or not spoken or not all(isinstance(part.get("text"), str) for part in spoken):
        return {}
    return {"continue_final_message": True, "add_generation_prompt": False}


def shows_thoughts(body: Body) -> bool:
    """Return whether the client wants to read the model's thoughts."""
    config = body.get("generationConfig")
    thinking = config.get("thinkingConfig") if isinstance(config, dict) else None
    return isinstance(thinking, dict) and thinking.get("includeThoughts") is True


def number_calls(messages: list[Body]) -> list[Body]:
    """Return the messages with an id of its own for each call; a result belongs to the first call of its name."""
    open_calls: dict[str, deque[str]] = {}
    count, numbered = 0, []
    for message in messages:
        if message.get("role") == "tool":
            waiting = open_calls.get(message["tool_call_id"])
            numbered.append({**message, "tool_call_id": waiting.popleft()} if waiting else message)
            continue
        calls = []
        for call in message.get("tool_calls") or ():
            count += 1
            open_calls.setdefault(call["id"], deque()).append(f"call_{count}")
            calls.append({**call, "id": f"call_{count}"})
        numbered.append({**message, "tool_calls": calls} if calls else message)
    return numbered


def drop_nulls(value: Any) -> Any:
    """Return a response of Gemini without fields that are null: Google's servers leave those out."""
    if isinstance(value, list):
        return [drop_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: found if key == "args" else drop_nulls(found) for key, found in value.items() if found is not None}
