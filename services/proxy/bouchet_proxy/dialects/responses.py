"""Rules for the bodies of OpenAI's `/v1/responses` on their way to vLLM. Pure.

Clients send the whole conversation as items. What another server put among them and vLLM cannot read is left out: an
item that only means something to that server without a word, one that the model should know of with a note.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bouchet_core.deployments import Traits

from .anthropic import MISSING_TOOLS_NOTE, NO_TOOLS_NOTE, REMINDER
from .arguments import text_arguments
from .blocks import FAILED_PREFIX, visible_text
from .left_out import is_function, keep_allowed, replace_parts
from .sampling import legal_sampling
from .tokens import Body, clamp_tokens, default_tokens, field_names, own_limit

BODY_FIELDS = field_names(
    "model input instructions max_output_tokens temperature top_p top_k min_p stream tools tool_choice "
    "parallel_tool_calls text reasoning user include store metadata truncation top_logprobs presence_penalty "
    "frequency_penalty repetition_penalty seed stop stop_token_ids ignore_eos logit_bias structured_outputs "
    "chat_template_kwargs include_reasoning skip_special_tokens include_stop_str_in_output"
)
# what `include` may name; the rest is for tools of OpenAI's servers, and for reasoning that only they can read
INCLUDES = frozenset(("message.output_text.logprobs",))
READABLE_ITEMS = frozenset(("message", "function_call", "function_call_output"))
# of a readable item, what vLLM's types know; servers and clients add fields of their own, or write null
ITEM_FIELDS = {
    None: field_names("role content type"),
    "message": field_names("type role content id status"),
    "function_call": field_names("type call_id name arguments id status"),
    "function_call_output": field_names("type call_id output id status"),
}
# calls of tools that the client runs, in other forms than a function's, and their results
OTHER_CALLS = frozenset(("custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call"))
OTHER_OUTPUTS = frozenset(kind + "_output" for kind in OTHER_CALLS)
# what asks something of the server itself
COMMANDS = frozenset(("compaction_trigger", "configuration_update"))
ITEM_NOTE = "[{} was here. It cannot be read here, so it was left out.]"
MAX_TYPE_CHARS = 60
TEXT_TYPES = (None, "text", "input_text", "output_text")
ROLES = ("user", "assistant", "system", "developer")
_STORED_FIELDS = {
    "previous_response_id": "responses are not stored; send the whole conversation as input (store=false)",
    "conversation": "conversations are not stored; send the whole conversation as input",
    "prompt": "prompt templates are not stored; send the text as input or instructions",
    "background": "responses are not stored, so none can be fetched later; leave it out and read the response",
}
TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")


def prepare_responses(body: Body, window: int | None, traits: Traits) -> Body:
    """Return a `/v1/responses` body as vLLM accepts it."""
    body = own_limit(body, "max_output_tokens")
    kept = {key: value for key, value in body.items() if key in BODY_FIELDS and value is not None}
    kept = clamp_tokens(default_tokens(kept, "max_output_tokens", traits.max_output, window), window)
    if traits.thinking in ("none", "always"):
        kept.pop("reasoning", None)
    if isinstance(kept.get("include"), list):
        kept["include"] = [name for name in kept["include"] if isinstance(name, str) and name in INCLUDES]
    if isinstance(kept.get("input"), list):
        kept = _place_system([item for given in kept["input"] for item in _prepare_item(given, traits)], kept)
    return legal_sampling(_keep_functions(keep_allowed(kept), traits))


def stored_elsewhere(body: Body) -> str | None:
    """Return which part of a request only a server that stores conversations has; None where it is whole."""
    for name, what in _STORED_FIELDS.items():
        if body.get(name) and (name != "prompt" or isinstance(body[name], dict)):
            return f"{name}: {what}"
    items = body.get("input")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and item.get("type") == "item_reference":
            return (
                f"input[{index}]: items are not stored, so a reference leads to none; send the items themselves (in "
                "the client: store=false)"
            )
    return None


def first_invalid_item(body: Body) -> str | None:
    """Return what is wrong with the first message or call that vLLM could not read; None where all can be read."""
    items = body.get("input")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        is_message = isinstance(item, dict) and item.get("type") in (None, "message")
        if is_message and (problem := _invalid_message(item)):
            return f"input[{index}].{problem}"
        is_call = isinstance(item, dict) and item.get("type") == "function_call"
        if is_call and not isinstance(item.get("name"), str):
            return f"input[{index}].name: must be a string"
    return None


def _invalid_message(item: Body) -> str | None:
    content = item.get("content")
    if item.get("role") not in ROLES:
        return f"role: must be one of {', '.join(ROLES)}"
    if not isinstance(content, str | list):
        return "content: must be a string or a list of objects"
    for number, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            return f"content[{number}]: must be an object with a type"
        if not isinstance(part.get("type") or "", str):
            return f"content[{number}].type: must be a string"
        if part.get("type") in TEXT_TYPES and not isinstance(part.get("text", 0), str | None):
            return f"content[{number}].text: must be a string"
    return None


# items


def _place_system(items: list[Any], body: Body) -> Body:
    """Return the body with these items, its system messages where chat templates of newer models accept them.

    Those at the beginning join the instructions, one within the conversation becomes a user message in its place.
    """
    first = next((n for n, item in enumerate(items) if not _is_system(item)), len(items))
    for item in items[:first]:
        body = _add_instruction(body, _text_of(item))
    kept = [_to_reminder(item) if _is_system(item) else item for item in items[first:]]
    return {**body, "input": kept}


def _is_system(item: Any) -> bool:
    return isinstance(item, dict) and item.get("role") in ("system", "developer")


def _to_reminder(item: Body) -> Body:
    return {"type": "message", "role": "user", "content": REMINDER.format(_text_of(item))}


def _text_of(item: Body) -> str:
    content = item.get("content")
    return content if isinstance(content, str) else "\n".join(filter(None, map(_text, _list(item, "content"))))


def _prepare_item(item: Any, traits: Traits) -> list[Any]:
    """Return an item as vLLM reads it: nothing for one that is left out, two for a call that has its result in it."""
    kind = item.get("type") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(kind, str) or kind in READABLE_ITEMS:
        return [_with_readable_parts(_known_fields(item), traits)]
    if kind == "reasoning":
        return _readable_reasoning(item)
    if kind in COMMANDS:
        return []
    if kind in OTHER_CALLS:
        given = next((item[name] for name in ("input", "action", "operation") if name in item), None)
        return [_function_call(item, item.get("name") or kind.removesuffix("_call"), given)]
    if kind in OTHER_OUTPUTS:
        # the result of a local shell has the call's id under another name
        call_id = str(item.get("call_id") or item.get("id") or "")
        output = {"type": "function_call_output", "call_id": call_id, "output": item.get("output")}
        return [_with_readable_parts(output if _has_parts(output["output"]) else _dumped(output), traits)]
    if kind == "mcp_call":
        return [_function_call(item, item.get("name"), item.get("arguments")), _mcp_output(item)]
    return [{"type": "message", "role": "user", "content": _other_item_text(item, kind)}]


def _known_fields(item: Any) -> Any:
    """Return a readable item with the fields that vLLM's types know, and text where those want text."""
    kind = item.get("type") if isinstance(item, dict) else None
    if not isinstance(item, dict) or (kind is not None and not isinstance(kind, str)):
        return item
    kept = {key: value for key, value in item.items() if key in ITEM_FIELDS[kind] and value is not None}
    if kind == "function_call":
        kept["arguments"] = text_arguments(kept.get("arguments"))
        if isinstance(name := item.get("name"), str):
            kept["name"] = flat_name(item.get("namespace"), name)
    if kind == "function_call_output" and not _has_parts(kept.get("output")):
        kept["output"] = json.dumps(kept["output"]) if "output" in kept else ""
    if kind in ("function_call", "function_call_output"):
        kept.setdefault("call_id", str(item.get("id") or "call"))
    return kept


def _has_parts(output: object) -> bool:
    """Return whether the output of a tool is text, or a list of parts; a shell's is a list of its own."""
    if isinstance(output, list):
        return all(isinstance(part, dict) and ("type" in part or "text" in part) for part in output)
    return isinstance(output, str)


def _other_item_text(item: Body, kind: str) -> str:
    """Return the words in an item of another server (a query, code, what was found); a note where there are none."""
    shown = kind[:MAX_TYPE_CHARS]
    if found := visible_text(item):
        return f"[{shown}]\n{found}"
    what = "A summary of the conversation so far" if "compaction" in kind else f"An item of the type {shown}"
    return ITEM_NOTE.format(what)


def _readable_reasoning(item: Body) -> list[Body]:
    """Return a reasoning item without what is encrypted for another server; nothing if it has nothing else."""
    texts = list(filter(None, map(_text, _list(item, "content") or _list(item, "summary"))))
    if not texts:
        return []
    content = [{"type": "reasoning_text", "text": "\n".join(texts)}]
    kept: Body = {"type": "reasoning", "summary": [], "content": content}
    return [{**kept, "id": item["id"]} if isinstance(item.get("id"), str) else kept]


def _function_call(item: Body, name: object, given: object) -> Body:
    """Return the call of another kind of tool as the call of a function, which chat templates know."""
    is_mcp = item.get("type") == "mcp_call"
    arguments = text_arguments(given) if is_mcp else json.dumps({"input": given})
    call_id = str(item.get("call_id") or item.get("id") or "")
    return {"type": "function_call", "call_id": call_id, "name": str(name or "tool"), "arguments": arguments}


def _mcp_output(item: Body) -> Body:
    output = item.get("output") or item.get("error") or ""
    text = output if isinstance(output, str) else json.dumps(output)
    if item.get("error") and not item.get("output"):
        text = f"{FAILED_PREFIX} {text}"
    return {"type": "function_call_output", "call_id": str(item.get("id") or ""), "output": text}


def _dumped(item: Body) -> Body:
    return {**item, "output": json.dumps(item["output"])}


def _with_readable_parts(item: Any, traits: Traits) -> Any:
    """Return an item with notes for the parts that the model cannot read; tool results have theirs under `output`."""
    if not isinstance(item, dict):
        return item
    if item.get("role") == "assistant" and isinstance(item.get("content"), list):
        return {**item, "content": _assistant_content(item, traits)}
    lists = {
        key: [_renamed(part, "input_text") for part in replace_parts(item[key], traits, "input_text")]
        for key in ("content", "output")
        if isinstance(item.get(key), list)
    }
    return {**item, **lists} if lists else item


def _assistant_content(item: Body, traits: Traits) -> list[Any]:
    """Return the content of an assistant's message as one part: vLLM reads only the first, and no refusal."""
    parts = [_renamed(part, "output_text") for part in replace_parts(item["content"], traits, "output_text")]
    text = "".join(_text(part) or str(part.get("refusal") or "") for part in parts if isinstance(part, dict))
    return [{"type": "output_text", "text": text, "annotations": []}]


def _renamed(part: Any, kind: str) -> Any:
    """Return a text part under the name that vLLM expects in its place; clients of chats call it `text`."""
    if isinstance(part, dict) and part.get("type") in ("refusal", "thinking"):
        return {"type": kind, "text": str(part.get("text") or part.get(part["type"]) or "")}
    is_text = (
        isinstance(part, dict) and part.get("type") in ("text", "input_text", "output_text", None) and "text" in part
    )
    return {**part, "type": kind} if is_text and part.get("type") != kind else part


def _list(item: Body, key: str) -> list[Any]:
    found = item.get(key)
    return found if isinstance(found, list) else []


def _text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""


# tools


def flat_name(namespace: object, name: str) -> str:
    """Return what a function within a namespace is called for a model: chat templates know no namespaces."""
    if not isinstance(namespace, str) or not namespace:
        return name
    return f"{namespace}{name}" if namespace.endswith("__") else f"{namespace}__{name}"


def flat_names(body: Body) -> dict[str, tuple[str, str]]:
    """Return the namespace and the name of each function that is in one, by what it is called for the model.

    Codex groups the tools of an MCP server, and some of its own, in this way, and knows their calls by both.
    """
    tools = body.get("tools")
    return {
        flat_name(tool["name"], function["name"]): (tool["name"], function["name"])
        for tool in (tools if isinstance(tools, list) else ())
        for function in _functions_within(tool)
    }


def restore_names(items: object, names: Mapping[str, tuple[str, str]]) -> None:
    """Give the calls among the items of an answer the namespace and the name that the client knows."""
    for item in items if isinstance(items, list) else [items]:
        called = item.get("name") if isinstance(item, dict) and item.get("type") == "function_call" else None
        if isinstance(item, dict) and isinstance(called, str) and called in names:
            item["namespace"], item["name"] = names[called]


def _functions_within(tool: Any) -> list[Body]:
    """Return the functions of a namespace, none for any other tool."""
    if not isinstance(tool, dict) or tool.get("type") != "namespace" or not isinstance(tool.get("name"), str):
        return []
    return [one for one in _list(tool, "tools") if _is_named_function(one)]


def _is_named_function(tool: Any) -> bool:
    return is_function(tool) and isinstance(tool.get("name"), str)


def _without_namespaces(tools: list[Any]) -> list[Any]:
    """Return the tools with the functions of a namespace in its place; what else is in one stays in it."""
    flat: list[Any] = []
    for tool in tools:
        functions = _functions_within(tool)
        flat += [{**one, "name": flat_name(tool["name"], one["name"])} for one in functions]
        others = [one for one in _list(tool, "tools") if not _is_named_function(one)] if functions else []
        flat += others if functions else [tool]
    return flat


def _keep_functions(body: Body, traits: Traits) -> Body:
    tools = body.get("tools")
    if not isinstance(tools, list) or not tools:
        return {key: value for key, value in body.items() if key not in TOOL_FIELDS}
    tools = _without_namespaces(tools)
    kept = [tool for tool in tools if is_function(tool)] if traits.tool_parser else []
    missing = [tool for tool in tools if isinstance(tool, dict) and not is_function(tool)]
    if not traits.tool_parser:
        body = _add_instruction(body, NO_TOOLS_NOTE)
    elif missing:
        names = ", ".join(str(tool.get("name") or tool.get("type")) for tool in missing)
        body = _add_instruction(body, MISSING_TOOLS_NOTE.format(names))
    rest = {key: value for key, value in body.items() if key not in TOOL_FIELDS}
    if not kept:
        return rest
    choice, calls = body.get("tool_choice"), body.get("parallel_tool_calls")
    if isinstance(choice, dict) and isinstance(choice.get("name"), str) and "namespace" in choice:
        choice = {"type": choice.get("type"), "name": flat_name(choice["namespace"], choice["name"])}
    options = {"tool_choice": choice if _is_valid_choice(choice, kept) else None, "parallel_tool_calls": calls}
    return {**rest, "tools": kept, **{key: value for key, value in options.items() if value is not None}}


def _is_valid_choice(choice: object, tools: list[Any]) -> bool:
    """Return whether a choice can be kept: a string, or a tool that is still there."""
    if isinstance(choice, dict):
        return is_function(choice) and choice.get("name") in [tool.get("name") for tool in tools]
    return isinstance(choice, str)


def _add_instruction(body: Body, note: str) -> Body:
    given = body.get("instructions")
    return {**body, "instructions": f"{given}\n\n{note}" if isinstance(given, str) and given else note}
