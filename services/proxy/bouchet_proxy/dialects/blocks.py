"""Content blocks of Anthropic messages as a model of vLLM can read them: whatever is text reaches the model. Pure.

vLLM's endpoint reads text, images, tool calls and results, and thinking. Every other block (documents, search results,
results of tools that Anthropic's servers ran) becomes a text block with the words in it; a note says what is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bouchet_core.deployments import Traits

from .tokens import Body

IMAGE_NOTE = "[An image was here. This model reads text only, so it was left out.]"
DOCUMENT_NOTE = "[A document was here. This model cannot read it, so it was left out.]"
FAILED_PREFIX = "Error:"
# what vLLM's endpoint reads
_READ = ("text", "tool_use", "thinking", "redacted_thinking")
# fields of blocks that hold words for the model, in the order in which they are shown
_WORDS = ("title", "name", "context", "source", "url", "file_name", "page_age")
_TEXTS = ("text", "content", "thinking", "stdout", "stderr", "output", "data", "error_code", "return_code", "input")
_LABELS = {
    "title": "Title",
    "name": "Name",
    "context": "Context",
    "source": "Source",
    "url": "URL",
    "file_name": "File",
}
# of a failed result: where it may name its failure itself
_FAILURE_HEAD = 40
MAX_LEVELS = 20

# returns the text of a reference to a tool
DescribeTool = Callable[[str], str]


def prepare_block(block: Any, traits: Traits, describe_tool: DescribeTool) -> Any:
    """Return the block as vLLM reads it. describe_tool: returns what the model reads where a tool is found."""
    if not isinstance(block, dict):
        return block
    kind = block.get("type")
    if kind == "tool_result":
        return _prepare_tool_result(block, traits, describe_tool)
    if kind == "image":
        return _bare(block) if traits.vision else text_block(IMAGE_NOTE)
    if kind == "document":
        return text_block(_document_text(block, traits))
    if kind == "tool_reference":
        return text_block(describe_tool(str(block.get("tool_name") or block.get("name"))))
    if kind in _READ or kind is None:
        return _bare(block)
    return text_block(_other_text(block))


def text_block(text: str) -> Body:
    """Return a text block."""
    return {"type": "text", "text": text}


def _bare(block: Body) -> Body:
    return {key: value for key, value in block.items() if key not in ("cache_control", "citations")}


def _prepare_tool_result(block: Body, traits: Traits, describe_tool: DescribeTool) -> Body:
    """Return a tool result whose content vLLM reads; a failed one says so, because vLLM has no field for it."""
    kept = {key: value for key, value in block.items() if key != "cache_control"}
    content = block.get("content")
    if isinstance(content, list):
        kept["content"] = [prepare_block(item, traits, describe_tool) for item in content]
    if block.get("is_error") is True and not _names_failure(kept.get("content")):
        return {**kept, "content": _prefix_failed(kept.get("content"))}
    return kept


def _names_failure(content: object) -> bool:
    first = (
        content[0].get("text") if isinstance(content, list) and content and isinstance(content[0], dict) else content
    )
    return isinstance(first, str) and "error" in first[:_FAILURE_HEAD].lower()


def _prefix_failed(content: Any) -> Any:
    if isinstance(content, list):
        return [text_block(FAILED_PREFIX), *content]
    return f"{FAILED_PREFIX} {content}" if content else f"{FAILED_PREFIX} the tool failed without a message"


def _document_text(block: Mapping[str, Any], traits: Traits) -> str:
    """Return title, context and text of a document; a note replaces pages that are no text."""
    source = block.get("source")
    head = [f"{_LABELS[name]}: {block[name]}" for name in ("title", "context") if _is_text(block.get(name))]
    text = _source_text(source if isinstance(source, Mapping) else {}, traits)
    return "\n".join([*head, text])


def _source_text(source: Mapping[str, Any], traits: Traits) -> str:
    data = source.get("data")
    if isinstance(data, str) and (source.get("type") == "text" or source.get("media_type") == "text/plain"):
        return data
    if source.get("type") == "content":
        return "\n".join(_visible(source.get("content"), MAX_LEVELS)) or DOCUMENT_NOTE
    where = source.get("url") or source.get("file_id")
    return f"{DOCUMENT_NOTE} ({where})" if _is_text(where) else DOCUMENT_NOTE


def _other_text(block: Mapping[str, Any]) -> str:
    """Return the words in a block of another kind, after its kind; a note where there are none."""
    kind = str(block.get("type"))[:100]
    words = "\n".join(_visible({key: value for key, value in block.items() if key != "type"}, MAX_LEVELS))
    if not words:
        return f"[A block of type {kind} was here. This model cannot read it, so it was left out.]"
    return words if kind == "search_result" else f"[{kind}]\n{words}"


def _visible(value: Any, levels: int) -> Iterator[str]:
    """Yield the texts in a block: labelled fields first, then texts in their order; never encoded data."""
    if not levels:
        return
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _visible(item, levels - 1)
    elif isinstance(value, Mapping):
        yield from _visible_fields(value, levels)


def _visible_fields(value: Mapping[str, Any], levels: int) -> Iterator[str]:
    kind = value.get("type")
    if kind == "image":
        yield IMAGE_NOTE
        return
    if kind == "base64":
        yield DOCUMENT_NOTE
        return
    for name in _WORDS:
        found = value.get(name)
        if _is_text(found):
            yield f"{_LABELS[name]}: {found}"
        elif name == "source":
            yield from _visible(found, levels - 1)
    for name in _TEXTS:
        found = value.get(name)
        if name == "input" and isinstance(found, Mapping):
            yield from (f"{key}: {one}" for key, one in found.items() if isinstance(one, str | int | float))
        elif isinstance(found, int) and not isinstance(found, bool):
            yield f"{name}: {found}"
        else:
            yield from _visible(found, levels - 1)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
