"""Rules for the bodies of OpenAI's chats, completions and embeddings on their way to vLLM. Pure.

vLLM speaks these APIs itself: what it can serve reaches it as the client wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from bouchet_core.deployments import Traits

from .anthropic import MISSING_TOOLS_NOTE, NO_TOOLS_NOTE, REMINDER
from .arguments import text_arguments
from .left_out import is_function, keep_allowed, replace_parts
from .sampling import legal_sampling
from .thinking import resolve_openai_thinking
from .tokens import Body, clamp_tokens, default_tokens, field_names, own_limit

# What the dialect and vLLM know. All other fields are dropped: some would steer LiteLLM, some let one client overtake
# the others or load vLLM with more than its prompt (priority, prompt_embeds, kv_transfer_params, chat_template, ...).
SAMPLING_FIELDS = field_names(
    "model stream stream_options temperature top_p top_k min_p n seed stop user logprobs logit_bias frequency_penalty "
    "presence_penalty repetition_penalty length_penalty max_tokens min_tokens stop_token_ids ignore_eos bad_words "
    "response_format skip_special_tokens spaces_between_special_tokens include_stop_str_in_output structured_outputs "
    "truncate_prompt_tokens truncation_side allowed_token_ids echo add_special_tokens return_token_ids prompt_logprobs "
    "logprob_token_ids return_tokens_as_token_ids use_beam_search thinking_token_budget repetition_detection"
)
CHAT_BODY_FIELDS = SAMPLING_FIELDS | field_names(
    "messages max_completion_tokens top_logprobs tools tool_choice parallel_tool_calls reasoning_effort "
    "include_reasoning chat_template_kwargs documents add_generation_prompt continue_final_message"
)
COMPLETION_BODY_FIELDS = SAMPLING_FIELDS | {"prompt", "suffix"}
EMBEDDING_BODY_FIELDS = frozenset(("model", "input", "encoding_format", "dimensions", "user"))
TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
SYSTEM_ROLES = ("system", "developer")


def prepare_chat(body: Body, window: int | None, traits: Traits) -> Body:
    """Return a `/v1/chat/completions` body as vLLM accepts it."""
    body = own_limit(body, "max_tokens", "max_completion_tokens")
    kept = _request_usage(_keep_fields(body, CHAT_BODY_FIELDS))
    kept = clamp_tokens(default_tokens(kept, "max_tokens", traits.max_output, window), window)
    kept = legal_sampling(_keep_functions(keep_allowed(kept), traits))
    messages = kept.get("messages")
    if isinstance(messages, list):
        kept = {**kept, "messages": _prepare_messages(messages, traits)}
    return resolve_openai_thinking(kept, traits)


def prepare_completion(body: Body, window: int | None) -> Body:
    """Return a `/v1/completions` body as vLLM accepts it."""
    kept = _keep_fields(own_limit(body, "max_tokens"), COMPLETION_BODY_FIELDS)
    return legal_sampling(clamp_tokens(_request_usage(kept), window))


def prepare_embeddings(body: Body) -> Body:
    """Return a `/v1/embeddings` body as vLLM accepts it."""
    return _keep_fields(body, EMBEDDING_BODY_FIELDS)


def for_other_server(body: Body) -> Body:
    """Return a prepared chat as servers other than vLLM read it: not all know the newer name of its limit."""
    limit = body.get("max_completion_tokens")
    if limit is None:
        return body
    rest = {key: value for key, value in body.items() if key != "max_completion_tokens"}
    return {"max_tokens": limit, **rest}


def wants_usage(body: Body) -> bool:
    """Return whether the client asked for the token counts at the end of its stream."""
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _request_usage(body: Body) -> Body:
    """Return the body with token counts requested where it streams: usage records and rate limits need them.

    OpenAI ignores `stream_options` where nothing streams; vLLM would refuse them.
    """
    if body.get("stream") is not True:
        return {key: value for key, value in body.items() if key != "stream_options"}
    if wants_usage(body):
        return body
    options = body.get("stream_options")
    return {**body, "stream_options": {**(options if isinstance(options, dict) else {}), "include_usage": True}}


def _keep_fields(body: Body, fields: frozenset[str]) -> Body:
    return {key: value for key, value in body.items() if key in fields and value is not None}


# tools


def _keep_functions(body: Body, traits: Traits) -> Body:
    """Drop the tools that the model or its server cannot call; a note to the model names them."""
    tools = body.get("tools")
    if not isinstance(tools, list) or not tools:
        return {key: value for key, value in body.items() if key not in TOOL_FIELDS}
    kept = [tool for tool in tools if _can_be_called(tool)] if traits.tool_parser else []
    if len(kept) == len(tools):
        return body
    missing = ", ".join(_tool_name(tool) for tool in tools if not kept or not _can_be_called(tool))
    body = _add_system_note(body, MISSING_TOOLS_NOTE.format(missing) if traits.tool_parser else NO_TOOLS_NOTE)
    rest = {key: value for key, value in body.items() if key not in TOOL_FIELDS}
    if not kept:
        return rest
    choice = body.get("tool_choice")
    calls = body.get("parallel_tool_calls")
    options = {"tool_choice": choice if _is_valid_choice(choice, kept) else None, "parallel_tool_calls": calls}
    return {**rest, "tools": kept, **{key: value for key, value in options.items() if value is not None}}


def _can_be_called(tool: object) -> bool:
    """Return whether a tool is a function; one without a type is left to vLLM, which says what is missing."""
    return is_function(tool) or not (isinstance(tool, dict) and isinstance(tool.get("type"), str))


def _tool_name(tool: Any) -> str:
    inner = tool.get(tool.get("type")) or tool
    return str((inner.get("name") if isinstance(inner, dict) else None) or tool.get("type"))


def _is_valid_choice(choice: object, tools: list[Any]) -> bool:
    """Return whether a choice can be kept: a string, or a function that is still there."""
    if not isinstance(choice, dict):
        return isinstance(choice, str)
    wanted = choice.get("function")
    functions = [tool.get("function") for tool in tools]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    return isinstance(wanted, dict) and wanted.get("name") in names


def _add_system_note(body: Body, note: str) -> Body:
    """Return the body with a note at the end of its system message; with one of its own if there is none."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return body
    first = messages[0] if messages else None
    if not isinstance(first, dict) or first.get("role") not in SYSTEM_ROLES:
        return {**body, "messages": [{"role": "system", "content": note}, *messages]}
    return {**body, "messages": [{**first, "content": _join_contents([first.get("content"), note])}, *messages[1:]]}


# messages


def _prepare_messages(messages: list[Any], traits: Traits) -> list[Any]:
    """Return the messages with notes for what the model cannot read, and system messages where templates want them.

    Templates know no `developer`, and those of newer models (Qwen 3.5 and later) accept one system message, at the
    beginning: others there are joined to it, one within the conversation becomes a user message in its place.
    """
    prepared = [_prepare_message(message, traits) for message in messages]
    first = next((n for n, message in enumerate(prepared) if not _is_system(message)), len(prepared))
    return [*_join_system(prepared[:first]), *(_to_reminder(m) if _is_system(m) else m for m in prepared[first:])]


def _prepare_message(message: Any, traits: Traits) -> Any:
    if not isinstance(message, dict):
        return message
    role, content = message.get("role"), message.get("content")
    calls = "tool_calls" in message or "function_call" in message or role == "function"
    if isinstance(content, str) and role != "developer" and not calls:
        return message
    changed = {"content": replace_parts(content, traits)} if isinstance(content, list) else {}
    if content is None and not _has_calls(message):
        # of a refusal, it is all there is
        changed["content"] = refusal if isinstance(refusal := message.get("refusal"), str) else ""
    if role == "developer":
        changed["role"] = "system"
    if not changed and not calls:
        return message
    # null is absent, and a refusal is content by now
    kept = {
        key: value for key, value in message.items() if (value is not None or key == "content") and key != "refusal"
    }
    return {**kept, **changed, **_with_calls(message)}


def _has_calls(message: Body) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def _with_calls(message: Body) -> Body:
    """Return what changes in calls of tools, and in their results, so that vLLM and chat templates read them.

    Arguments are a text; a tool of another kind, which other servers have, becomes a function; so does the older form,
    in which a function has no id.
    """
    if message.get("role") == "function":
        return {"role": "tool", "tool_call_id": _old_id(message.get("name"))}
    if calls := message.get("tool_calls"):
        return {"tool_calls": [_readable_call(call) for call in calls]}
    if isinstance(old := message.get("function_call"), dict):
        return {"tool_calls": [_readable_call({"id": _old_id(old.get("name")), "type": "function", "function": old})]}
    return {}


def _old_id(name: object) -> str:
    return f"call_{name}"


def _readable_call(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    given, custom = call.get("function"), call.get("custom")
    if not isinstance(given, dict) and isinstance(custom, dict):
        given = {"name": custom.get("name"), "arguments": {"input": custom.get("input")}}
    if not isinstance(given, dict):
        return call
    given = {**given, "arguments": text_arguments(given.get("arguments"))}
    rest = {key: value for key, value in call.items() if key != "custom"}
    return {"id": "call", **rest, "type": "function", "function": given}


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "system"


def _join_system(messages: list[Any]) -> list[Any]:
    if len(messages) < 2:
        return messages
    return [{**messages[0], "content": _join_contents([message.get("content") for message in messages])}]


def _to_reminder(message: Body) -> Body:
    return {"role": "user", "content": REMINDER.format(_text_of(message.get("content")))}


def _join_contents(contents: Sequence[Any]) -> Any:
    """Return all contents as one: as text where all are, else as a list of parts."""
    given = [content for content in contents if content]
    texts = list(takewhile(lambda content: isinstance(content, str), given))
    text, rest = "\n\n".join(texts), given[len(texts) :]
    if not rest:
        return text
    parts: list[Any] = _parts_of(text) if texts else []
    for content in rest:
        if parts:
            parts.append({"type": "text", "text": "\n\n"})
        parts += _parts_of(content)
    return parts


def _parts_of(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": str(content)}]


def _text_of(content: Any) -> str:
    return "\n".join(
        str(part["text"]) for part in _parts_of(content or "") if isinstance(part, dict) and part.get("text")
    )
