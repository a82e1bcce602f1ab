"""What an Anthropic request may contain when it reaches vLLM. Pure; never changes the body it is given.

Every rule looks at one message at a time and depends on nothing that changes between turns, so that the prompt of
turn N+1 extends the prompt of turn N and vLLM's prefix cache hits.
"""

from __future__ import annotations

from typing import Any

from bouchet_core.deployments import Traits

from .thinking import settle_anthropic
from .token_limits import Body, clamp_tokens, default_tokens

# what vLLM's own Anthropic endpoint reads; everything else a client sends is dropped without a word
COUNT_FIELDS = frozenset(("model", "messages", "output_config", "system", "thinking", "tool_choice", "tools"))
FIELDS = COUNT_FIELDS | {"max_tokens", "stop_sequences", "stream", "temperature", "top_k", "top_p"}
BLOCKS = frozenset(("text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"))
# Claude Code's first system block; it differs with every request and would spoil the prefix cache
BILLING = "x-anthropic-billing-header"
# Claude Code's own words for what the system says within a conversation
REMINDER = "<system-reminder>\n{}\n</system-reminder>"
NO_IMAGES = "[An image was here. This model reads text only, so it was left out.]"


def prepare_messages(body: Body, window: int | None, traits: Traits) -> Body:
    """A `/v1/messages` body as vLLM takes it."""
    kept = {key: value for key, value in _lifted(body).items() if key in FIELDS and value is not None}
    kept = clamp_tokens(default_tokens(kept, "max_tokens", traits.max_output, window), window)
    return _prepared(kept, traits)


def prepare_count(body: Body, traits: Traits) -> Body:
    """A `/v1/messages/count_tokens` body as vLLM takes it: the same prompt as prepare_messages makes."""
    kept = {key: value for key, value in _lifted(body).items() if key in FIELDS and value is not None}
    prepared = _prepared(kept, traits)
    return {key: value for key, value in prepared.items() if key in COUNT_FIELDS}


def _prepared(body: Body, traits: Traits) -> Body:
    body = settle_anthropic(_without_billing(body), traits)
    body = _with_known_tools(body, traits)
    messages = body.get("messages")
    if isinstance(messages, list):
        body = {**body, "messages": _messages(messages, traits)}
    return body


def _lifted(body: Body) -> Body:
    """Older betas wrote `output_format` where `output_config.format` stands now."""
    form, config = body.get("output_format"), body.get("output_config")
    if not isinstance(form, dict) or (isinstance(config, dict) and "format" in config):
        return body
    return {**body, "output_config": {**(config if isinstance(config, dict) else {}), "format": form}}


def _without_billing(body: Body) -> Body:
    system = body.get("system")
    if isinstance(system, str) and system.startswith(BILLING):
        return {key: value for key, value in body.items() if key != "system"}
    if isinstance(system, list):
        return {**body, "system": _without_billing_blocks(system)}
    return body


def _without_billing_blocks(blocks: list[Any]) -> list[Any]:
    return [b for b in blocks if not (isinstance(b, dict) and str(b.get("text") or "").startswith(BILLING))]


def _with_known_tools(body: Body, traits: Traits) -> Body:
    """Without the tools that only Anthropic's servers can run; a note in the system prompt names them."""
    tools = body.get("tools")
    if not isinstance(tools, list):
        return body
    kept = [_with_schema(tool) for tool in tools if not _is_foreign(tool)] if traits.tool_parser else []
    missing = [
        str(tool.get("name") or tool.get("type")) for tool in tools if isinstance(tool, dict) and _is_foreign(tool)
    ]
    if not traits.tool_parser and tools:
        body = _noted(body, "Tools are not available with this model: answer in words.")
    elif missing:
        body = _noted(body, f"These tools are not available here: {', '.join(missing)}.")
    return _with_tools(body, kept)


def _with_tools(body: Body, tools: list[Any]) -> Body:
    rest = {key: value for key, value in body.items() if key not in ("tools", "tool_choice")}
    if not tools:
        return rest
    rest["tools"] = tools
    choice = body.get("tool_choice")
    names = {tool.get("name") for tool in tools if isinstance(tool, dict)}
    gone = isinstance(choice, dict) and choice.get("type") == "tool" and choice.get("name") not in names
    if choice is not None and not gone:
        rest["tool_choice"] = choice
    return rest


def _is_foreign(tool: object) -> bool:
    """Anthropic's own tools carry a dated type (`web_search_20250305`) and no schema."""
    if not isinstance(tool, dict) or isinstance(tool.get("input_schema"), dict):
        return False
    return str(tool.get("type") or "custom") != "custom"


def _with_schema(tool: Any) -> Any:
    """The tool with a schema, and shown from the start: templates know no tools that are loaded later."""
    if not isinstance(tool, dict):
        return tool
    kept = {key: value for key, value in tool.items() if key != "defer_loading"}
    if not isinstance(tool.get("input_schema"), dict):
        kept["input_schema"] = {"type": "object", "properties": {}}
    return kept


def _noted(body: Body, note: str) -> Body:
    system = body.get("system")
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) and system else system
    blocks = blocks if isinstance(blocks, list) else []
    # vLLM joins the blocks without a separator
    text = f"\n\n{note}" if blocks else note
    return {**body, "system": [*blocks, {"type": "text", "text": text}]}


def _messages(messages: list[Any], traits: Traits) -> list[Any]:
    prepared = [_message(message, traits) for message in messages]
    said = [message for message in prepared if not _is_blank(message)]
    begun = next((n for n, message in enumerate(said) if not _is_system(message)), len(said))
    return said[:begun] + [_reminder(message) if _is_system(message) else message for message in said[begun:]]


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "system"


def _reminder(message: Body) -> Body:
    """A system message amid the conversation, as a user's, in its place.

    Templates of newer models (Qwen 3.5 and later) take a system message at the beginning only. vLLM then moves all of
    them there, and each new one changes the head of the prompt: the whole conversation misses the prefix cache.
    """
    content = message["content"]
    blocks = content if isinstance(content, list) else [_text(content)]
    texts = [str(block.get("text") or "") for block in blocks if isinstance(block, dict)]
    return {"role": "user", "content": REMINDER.format("\n".join(filter(None, texts)))}


def _message(message: Any, traits: Traits) -> Any:
    if not isinstance(message, dict):
        return message
    role = "system" if message.get("role") == "developer" else message.get("role")
    content = message.get("content")
    if content is None:
        return {"role": role, "content": ""}
    if isinstance(content, list):
        blocks = _without_billing_blocks(content) if role == "system" else content
        return {"role": role, "content": [_block(block, traits) for block in blocks]}
    return {"role": role, "content": content}


def _is_blank(message: Any) -> bool:
    """A message of vLLM's three roles that says nothing; templates stumble over it."""
    if not isinstance(message, dict) or message.get("role") not in ("assistant", "system"):
        return False
    content = message.get("content")
    if isinstance(content, list):
        return all(isinstance(b, dict) and b.get("type") == "text" and not b.get("text") for b in content)
    return content == "" or (message["role"] == "system" and str(content).startswith(BILLING))


def _block(block: Any, traits: Traits) -> Any:
    if not isinstance(block, dict):
        return block
    kind = block.get("type")
    if kind == "tool_result":
        return _tool_result(block, traits)
    if kind == "image" and not traits.vision:
        return _text(NO_IMAGES)
    if kind == "document":
        return _document(block)
    if kind == "tool_reference":
        return _text(f"The tool {block.get('tool_name') or block.get('name')} can be called.")
    if kind not in BLOCKS and kind is not None:
        return _text(f"[A block of type {kind} was here. This model cannot read it, so it was left out.]")
    return {key: value for key, value in block.items() if key != "cache_control"}


def _tool_result(block: Body, traits: Traits) -> Body:
    content = block.get("content")
    if isinstance(content, list):
        content = [_block(item, traits) for item in content]
    kept = {key: value for key, value in block.items() if key != "cache_control"}
    return {**kept, "content": content} if "content" in block else kept


def _document(block: Body) -> Body:
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") == "text" and isinstance(source.get("data"), str):
        return _text(source["data"])
    return _text("[A document was here. This model cannot read it, so it was left out.]")


def _text(text: str) -> Body:
    return {"type": "text", "text": text}
