"""Content blocks of Anthropic messages as a model of vLLM can read them: whatever is text reaches the model. Pure.

vLLM's endpoint reads text, images, tool calls and results, and thinking. Every other block (documents, search results,
results of tools that Anthropic's servers ran) becomes a text block with the words in it; a note says what is left out.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bouchet_core.deployments import Traits

from .arguments import object_arguments
from .tokens import Body, field_names

IMAGE_NOTE = "[An image was here. This model reads text only, so it was left out.]"
DOCUMENT_NOTE = "[A document was here. This model cannot read it, so it was left out.]"
FAILED_PREFIX = "Error:"
# what vLLM's endpoint reads
_READ = ("text", "tool_use", "thinking", "redacted_thinking")
# names that the responses API has for a text block
OTHER_TEXTS = ("input_text", "output_text")
# fields of blocks that hold words for the model, in the order in which they are shown; then all others but the hidden
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
# marks, and what only the server that wrote it can read
_HIDDEN = field_names(
    "type id call_id tool_use_id item_id file_id container_id response_id status role index phase object is_error "
    "signature cache_control citations annotations logprobs media_type mime_type file_type format detail server_label"
)
_SECRET_PREFIX = "encrypted"
# base64, of an image for example: no text of a person has a line so long without a blank
_ENCODED = re.compile(r"data:[^,\s]{0,200},\S*|[A-Za-z0-9+/_=-]{256,}")
# a failed result that names its failure itself
_NAMES_FAILURE = re.compile(r"\s*(?:<[\w-]*error\b|\W{0,3}error\b|\w*(?:Error|Exception):)", re.I)
_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/yaml", "application/x-yaml")
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
        return text_block(document_text(block))
    if kind == "tool_reference":
        return text_block(describe_tool(str(block.get("tool_name") or block.get("name"))))
    if kind == "tool_use" and not isinstance(block.get("input"), dict):
        return {**_bare(block), "input": object_arguments(block.get("input"))}
    if kind in _READ or (kind is None and "text" not in block):
        return _bare(block)
    if kind is None or (kind in OTHER_TEXTS and "text" in block):
        return {**_bare(block), "type": "text"}
    text = _other_text(block)
    failed = block.get("is_error") is True and not _names_failure(text.partition("\n")[2])
    return text_block(f"{FAILED_PREFIX} {text}" if failed else text)


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
    return isinstance(first, str) and _NAMES_FAILURE.match(first) is not None


def _prefix_failed(content: Any) -> Any:
    if isinstance(content, list):
        return [text_block(FAILED_PREFIX), *content]
    return f"{FAILED_PREFIX} {content}" if content else f"{FAILED_PREFIX} the tool failed without a message"


def document_text(block: Mapping[str, Any]) -> str:
    """Return title, context and text of a document; a note replaces pages that are no text."""
    source = block.get("source")
    head = [f"{_LABELS[name]}: {block[name]}" for name in ("title", "context") if _is_text(block.get(name))]
    text = _source_text(source if isinstance(source, Mapping) else {})
    return "\n".join([*head, text])


def _source_text(source: Mapping[str, Any]) -> str:
    data, kind = source.get("data"), source.get("type")
    if kind == "content":
        return "\n".join(_visible(source.get("content"), MAX_LEVELS)) or DOCUMENT_NOTE
    if isinstance(data, str) and kind == "base64":
        text = decode_text(data) if has_text_type(source.get("media_type")) else None
        return DOCUMENT_NOTE if text is None else text
    if isinstance(data, str) and (kind == "text" or source.get("media_type") == "text/plain"):
        return data
    where = source.get("url") or source.get("file_id")
    return f"{DOCUMENT_NOTE} ({where})" if _is_text(where) else DOCUMENT_NOTE


def has_text_type(media_type: object) -> bool:
    """Return whether a media type is one of text."""
    return isinstance(media_type, str) and media_type.strip().lower().startswith(_TEXT_TYPES)


def decode_text(data: str) -> str | None:
    """Return the text in base64; None where it is something else. It is shorter than the data."""
    try:
        text = base64.b64decode("".join(data.split()), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return None if "\0" in text else text


def visible_text(block: Mapping[str, Any]) -> str:
    """Return the words in a block or an item of any kind, '' where there are none."""
    return "\n".join(_visible_fields({**block, "type": None}, MAX_LEVELS))


def _other_text(block: Mapping[str, Any]) -> str:
    """Return the words in a block of another kind, after its kind; a note where there are none."""
    kind = str(block.get("type"))[:100]
    found = visible_text(block)
    if not found:
        return f"[A block of type {kind} was here. This model cannot read it, so it was left out.]"
    return found if kind == "search_result" else f"[{kind}]\n{found}"


def _visible(value: Any, levels: int) -> Iterator[str]:
    """Yield the texts in a block: labelled fields first, then texts in their order; never encoded data."""
    if not levels:
        return
    if isinstance(value, str):
        if value and not _ENCODED.fullmatch(value.strip()):
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
        yield _source_text(value)
        return
    for name in _WORDS:
        found = value.get(name)
        if _is_text(found):
            yield f"{_LABELS.get(name, name)}: {found}"
        elif name == "source":
            yield from _visible(found, levels - 1)
    for name in _TEXTS:
        yield from _visible_field(name, value.get(name), levels)
    for name, found in value.items():
        if name not in _WORDS and name not in _TEXTS and name not in _HIDDEN and not name.startswith(_SECRET_PREFIX):
            yield from _visible(found, levels - 1)


def _visible_field(name: str, found: Any, levels: int) -> Iterator[str]:
    if name == "input" and isinstance(found, Mapping):
        for key, one in found.items():
            texts = [str(one)] if isinstance(one, str | int | float) else [*_visible(one, levels - 1)]
            yield from (f"{key}: {text}" for text in texts)
    elif name == "error_code" and _is_text(found):
        yield f"{FAILED_PREFIX} {found}"
    elif isinstance(found, int) and not isinstance(found, bool):
        yield f"{name}: {found}"
    else:
        yield from _visible(found, levels - 1)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
