"""Rules for the bodies of Anthropic requests on their way to vLLM. Pure; no rule changes its argument.

Every rule depends on one message and those before it, and on nothing that changes between turns, so that the prompt of
turn N+1 extends the prompt of turn N, and vLLM finds it in its prefix cache.
"""

from __future__ import annotations

from typing import Any

from bouchet_core.deployments import Traits

from .blocks import prepare_block, text_block
from .deferred_tools import CHANGES, ToolHistory, has_server_search, template_tools
from .sampling import legal_sampling
from .thinking import resolve_anthropic_thinking
from .tokens import Body, clamp_tokens, default_tokens, own_limit

# what vLLM's own Anthropic endpoint reads; all other fields are dropped
PROMPT_FIELDS = frozenset(("model", "messages", "output_config", "system", "thinking", "tool_choice", "tools"))
FIELDS = PROMPT_FIELDS | {"max_tokens", "stop_sequences", "stream", "temperature", "top_k", "top_p"}
# set by the rules below, never by a client
COUNT_FIELDS = PROMPT_FIELDS | {"chat_template_kwargs"}
# Claude Code's first system block; it differs with every request, so the prefix cache would never match
BILLING = "x-anthropic-billing-header"
# Claude Code's own format for system messages within a conversation
REMINDER = "<system-reminder>\n{}\n</system-reminder>"
NO_TOOLS_NOTE = "Tools are not available with this model: answer in plain text."
MISSING_TOOLS_NOTE = "These tools are not available here: {}."
# vLLM would look for tool calls in the answer all the same, and drop what looks like one
NO_TOOL_CALLS = {"type": "none"}


def unanswered_prefill(messages: list[Any]) -> str | None:
    """Return why a conversation that ends with the assistant's own words cannot be continued; None for any other.

    vLLM's endpoint would begin a new turn. Anthropic's newer models reject such a request in these words, too.
    """
    last = messages[-1] if messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant" or not last.get("content") or _is_empty(last):
        return None
    return (
        "messages: This model does not support assistant message prefill. The conversation must end with a user "
        "message; /v1/chat/completions continues one with `continue_final_message`"
    )


def prepare_messages(body: Body, window: int | None, traits: Traits) -> Body:
    """Return a `/v1/messages` body as vLLM accepts it."""
    body = own_limit(_move_output_format(body), "max_tokens")
    kept = {key: value for key, value in body.items() if key in FIELDS and value is not None}
    kept = clamp_tokens(default_tokens(kept, "max_tokens", traits.max_output, window), window)
    return legal_sampling(_apply_rules(kept, traits))


def prepare_count(body: Body, traits: Traits) -> Body:
    """Return a `/v1/messages/count_tokens` body as vLLM accepts it: the prompt is that of prepare_messages."""
    kept = {key: value for key, value in _move_output_format(body).items() if key in FIELDS and value is not None}
    prepared = _apply_rules(kept, traits)
    return {key: value for key, value in prepared.items() if key in COUNT_FIELDS}


def _apply_rules(body: Body, traits: Traits) -> Body:
    body = _with_readable_system(resolve_anthropic_thinking(_drop_billing(body), traits))
    tools = [_prepare_tool(tool) for tool in body.get("tools") or () if not _is_server_tool(tool)]
    if has_server_search(body.get("tools") or []):
        tools = [_without_defer(tool) for tool in tools]
    history = ToolHistory(tools if traits.tool_parser else [])
    messages = body.get("messages")
    if isinstance(messages, list):
        body = {**body, "messages": _prepare_messages(messages, traits, history)}
    return _keep_client_tools(body, traits, history)


def _move_output_format(body: Body) -> Body:
    """Return the body with `output_config.format`, which older betas called `output_format`."""
    form, config = body.get("output_format"), body.get("output_config")
    if not isinstance(form, dict) or (isinstance(config, dict) and "format" in config):
        return body
    return {**body, "output_config": {**(config if isinstance(config, dict) else {}), "format": form}}


def _drop_billing(body: Body) -> Body:
    system = body.get("system")
    if isinstance(system, str) and system.startswith(BILLING):
        return {key: value for key, value in body.items() if key != "system"}
    if isinstance(system, list):
        return {**body, "system": _drop_billing_blocks(system)}
    return body


def _with_readable_system(body: Body) -> Body:
    """Return the body with a system prompt of text blocks alone, which is all that vLLM reads of it."""
    system = body.get("system")
    if not isinstance(system, list) or all(block.get("type") == "text" for block in system):
        return body
    return {**body, "system": [prepare_block(block, Traits(), str) for block in system]}


def _drop_billing_blocks(blocks: list[Any]) -> list[Any]:
    return [b for b in blocks if not (isinstance(b, dict) and str(b.get("text") or "").startswith(BILLING))]


def _keep_client_tools(body: Body, traits: Traits, history: ToolHistory) -> Body:
    """Drop the tools that only Anthropic's servers can run; a note in the system prompt names them."""
    tools = body.get("tools") or []
    missing = [
        str(tool.get("name") or tool.get("type")) for tool in tools if isinstance(tool, dict) and _is_server_tool(tool)
    ]
    if not traits.tool_parser and tools:
        body = _add_system_note(body, NO_TOOLS_NOTE)
    elif missing:
        body = _add_system_note(body, MISSING_TOOLS_NOTE.format(", ".join(missing)))
    return _set_tools(body, history if traits.tool_parser else ToolHistory([]))


def _set_tools(body: Body, history: ToolHistory) -> Body:
    """Set the tools that may be called, and those in the head of the prompt where they are others."""
    rest = {key: value for key, value in body.items() if key not in ("tools", "tool_choice")}
    choice = body.get("tool_choice")
    kind, name = (choice.get("type"), choice.get("name")) if isinstance(choice, dict) else (None, None)
    tools = history.callable(only_shown=kind == "any")
    if not tools:
        return {**rest, "tool_choice": NO_TOOL_CALLS}
    rest["tools"] = tools
    if history.differs:
        rest["chat_template_kwargs"] = {"tools": template_tools(history.head())}
    gone = kind == "tool" and name not in {tool.get("name") for tool in tools}
    if choice is not None and not gone:
        rest["tool_choice"] = choice
    return rest


def _is_server_tool(tool: object) -> bool:
    """Return whether Anthropic runs the tool: those have a dated type (`web_search_20250305`) and no schema."""
    if not isinstance(tool, dict) or isinstance(tool.get("input_schema"), dict):
        return False
    return str(tool.get("type") or "custom") != "custom"


def _prepare_tool(tool: Any) -> Any:
    """Return the tool with a schema."""
    if not isinstance(tool, dict) or isinstance(tool.get("input_schema"), dict):
        return tool
    return {**tool, "input_schema": {"type": "object", "properties": {}}}


def _without_defer(tool: Any) -> Any:
    return {key: value for key, value in tool.items() if key != "defer_loading"} if isinstance(tool, dict) else tool


def _add_system_note(body: Body, note: str) -> Body:
    system = body.get("system")
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) and system else system
    blocks = blocks if isinstance(blocks, list) else []
    # vLLM joins the blocks without a separator
    text = f"\n\n{note}" if blocks else note
    return {**body, "system": [*blocks, {"type": "text", "text": text}]}


def _prepare_messages(messages: list[Any], traits: Traits, history: ToolHistory) -> list[Any]:
    prepared = [_prepare_message(message, traits, history) for message in messages]
    kept = [message for message in prepared if not _is_empty(message)]
    first = next((n for n, message in enumerate(kept) if not _is_system(message)), len(kept))
    return kept[:first] + [_to_reminder(message) if _is_system(message) else message for message in kept[first:]]


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "system"


def _to_reminder(message: Body) -> Body:
    """Return a system message within the conversation as a user message in its place.

    Chat templates of newer models (Qwen 3.5 and later) accept a system message at the beginning only. vLLM then moves
    all of them there, and each new one changes the head of the prompt: the whole conversation misses the prefix cache.
    """
    content = message["content"]
    blocks = content if isinstance(content, list) else [text_block(content)]
    texts = [str(block.get("text") or "") for block in blocks if isinstance(block, dict)]
    return {"role": "user", "content": REMINDER.format("\n".join(filter(None, texts)))}


def _prepare_message(message: Any, traits: Traits, history: ToolHistory) -> Any:
    if not isinstance(message, dict):
        return message
    role = "system" if message.get("role") == "developer" else message.get("role")
    content = message.get("content")
    if content is None:
        return {"role": role, "content": ""}
    if isinstance(content, list):
        blocks = _drop_billing_blocks(content) if role == "system" else content
        if not blocks and role == "user":
            # vLLM would drop the message, and the template miss a turn
            return {"role": role, "content": ""}
        return {"role": role, "content": [_prepare_content(block, traits, history) for block in blocks]}
    return {"role": role, "content": content}


def _prepare_content(block: Any, traits: Traits, history: ToolHistory) -> Any:
    if isinstance(block, dict) and block.get("type") in CHANGES:
        return history.prepare_change(block)
    return prepare_block(block, traits, history.describe)


def _is_empty(message: Any) -> bool:
    """Return whether an assistant or system message has no content; chat templates fail on those."""
    if not isinstance(message, dict) or message.get("role") not in ("assistant", "system"):
        return False
    content = message.get("content")
    if isinstance(content, list):
        return not any(map(_has_content, content))
    return content == "" or (message["role"] == "system" and str(content).startswith(BILLING))


def _has_content(block: Any) -> bool:
    """Return whether a block has something for a template; a redacted one is for the server that wrote it."""
    kind = block.get("type") if isinstance(block, dict) else None
    if kind in ("text", "thinking"):
        return bool(block.get(kind))
    return kind != "redacted_thinking"
