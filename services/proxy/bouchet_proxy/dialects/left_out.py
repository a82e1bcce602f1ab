"""What a model cannot read or run: it is left out of a request, with a note to the model and one to the client. Pure.

The model reads its note in the place of what is missing. The client gets a header with its response.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from bouchet_core.deployments import Traits

from .blocks import DOCUMENT_NOTE, IMAGE_NOTE, OTHER_TEXTS, decode_text, document_text, has_text_type, visible_text
from .tokens import Body

FILE_NOTE = "[A file was here{}. This model cannot read it, so it was left out.]"
PART_NOTE = "[Content of the type {} was here. This model cannot read it, so it was left out.]"
# parts that vLLM reads as text
TEXT_PARTS = frozenset(("text", "input_text", "output_text", "refusal", "thinking"))
IMAGE_PARTS = frozenset(("image_url", "input_image", "image"))
# what a model that reads images reads, if its own code knows more than images
MEDIA_PARTS = IMAGE_PARTS | {"video_url", "audio_url", "input_audio"}
OTHER_MEDIA = MEDIA_PARTS - IMAGE_PARTS
FILE_PARTS = frozenset(("file", "input_file"))
# what may be left out
_SPECIAL_PARTS = MEDIA_PARTS | FILE_PARTS | {"document"}
# what only the name of a file says to be no text, where its data have no type
_OTHER_SUFFIXES = frozenset((".pdf", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".docx", ".xlsx", ".pptx", ".zip"))
# OpenAI's choice of some of the tools, which vLLM does not know
ALLOWED = "allowed_tools"
MAX_TYPE_CHARS = 40
MAX_NAME_CHARS = 200


def replace_parts(content: Any, traits: Traits, text_type: str = "text") -> Any:
    """Return the content of a message with a text in the place of each part that the model cannot read.

    text_type: what this API calls a text part. Anything but a list stays as it is.
    """
    if not isinstance(content, list):
        return content
    return [_replace_part(part, traits, text_type) for part in content]


def _replace_part(part: Any, traits: Traits, text_type: str) -> Any:
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind is None and "text" in part:
        kind, part = "text", {**part, "type": text_type}
    if kind is None and (named := next((name for name in part if name in MEDIA_PARTS | FILE_PARTS), None)):
        kind, part = named, {**part, "type": named}
    if kind in TEXT_PARTS and "text" in part and part["text"] is None:
        return {**part, "type": text_type, "text": ""}
    if text_type == "text" and kind in OTHER_TEXTS:
        return {**part, "type": "text"}
    if kind in FILE_PARTS:
        return {"type": text_type, "text": _file_text(part)}
    if not isinstance(kind, str) or kind in TEXT_PARTS or (traits.vision and kind in MEDIA_PARTS):
        return part
    if kind in MEDIA_PARTS:
        note = IMAGE_NOTE if kind in IMAGE_PARTS else PART_NOTE.format(kind[:MAX_TYPE_CHARS])
    else:
        note = visible_text(part) or PART_NOTE.format(kind[:MAX_TYPE_CHARS])
    return {"type": text_type, "text": note}


def _file_fields(part: Mapping[str, Any]) -> Mapping[str, Any]:
    given = part.get("file")
    return given if isinstance(given, dict) else part


def _read_file(part: Mapping[str, Any]) -> str | None:
    """Return the text of a file whose content is in the request and is text; None for any other."""
    fields = _file_fields(part)
    name = fields.get("filename")
    return _decode_file(fields.get("file_data"), name if isinstance(name, str) else "")


def _file_text(part: Mapping[str, Any]) -> str:
    """Return the text of a file, or a note where there is none, after its name."""
    name = _file_fields(part).get("filename")
    label = f" ({name[:MAX_NAME_CHARS]})" if isinstance(name, str) and name else ""
    text = _read_file(part)
    return FILE_NOTE.format(label) if text is None else f"{label.strip(' ()')}\n{text}".lstrip("\n")


def _decode_file(data: object, name: str) -> str | None:
    """Return the text of a file from a `data:` URL, or from base64 alone, as some clients send it."""
    if not isinstance(data, str) or data.startswith("data:"):
        return decode_text_url(data)
    return None if PurePosixPath(name.lower()).suffix in _OTHER_SUFFIXES else decode_text(data)


def decode_text_url(url: object) -> str | None:
    """Return the text in a `data:` URL of a text type; None for anything else. It is shorter than the URL."""
    if not isinstance(url, str) or not url.startswith("data:"):
        return None
    head, comma, data = url.partition(",")
    if not comma or not has_text_type(head.removeprefix("data:")):
        return None
    return decode_text(data) if head.endswith(";base64") else unquote(data)


# what the client itself allows


def keep_allowed(body: Body) -> Body:
    """Return a body of chats or responses with the allowed tools and the mode of their choice; another one as it is."""
    choice, tools = body.get("tool_choice"), body.get("tools")
    if not isinstance(choice, dict) or choice.get("type") != ALLOWED or not isinstance(tools, list):
        return body
    # a chat has both one level deeper
    inner = choice.get(ALLOWED)
    given = inner if isinstance(inner, dict) else choice
    listed = given.get("tools")
    names = {_called(tool) for tool in (listed if isinstance(listed, list) else ())} - {""}
    kept = [tool for tool in tools if _called(tool) in names]
    mode = "required" if given.get("mode") == "required" else "auto"
    return {**body, "tools": kept or tools, "tool_choice": mode if kept else "none"}


def _called(tool: Any) -> str:
    """Return what a tool is called: a function by its name, any other by its type; '' for what has neither."""
    if not isinstance(tool, dict):
        return ""
    function = tool.get("function")
    named = function if isinstance(function, dict) else tool
    found = named.get("name") or tool.get("type")
    return found if isinstance(found, str) else ""


# the note to the client


def notes_for_client(body: Body, traits: Traits) -> str:
    """Return what is left out of a checked request of any dialect, as the value of a header; '' for nothing."""
    notes = []
    tools = body.get("tools")
    if isinstance(tools, list) and tools:
        if not traits.tool_parser:
            notes.append("tools were left out: this model has no tool_parser in models.yaml")
        elif any(_is_left_out(tool, is_response="input" in body) for tool in tools):
            notes.append("tools that only the provider's own servers can run were left out")
    if body.get("functions") and not tools:
        notes.append("`functions` were left out: send them as `tools`")
    if body.get("mcp_servers"):
        notes.append("mcp_servers were left out: only the provider's own servers connect to them")
    if body.get("container"):
        notes.append("container was left out: only the provider's own servers run one")
    if body.get("web_search_options") is not None:
        notes.append("web_search_options were left out: only the provider's own servers search the web")
    if isinstance(wanted := body.get("modalities"), list) and "audio" in wanted:
        notes.append("sound was left out: this model writes text only")
    if body.get("best_of") not in (None, body.get("n") or 1):
        notes.append("best_of was left out: `n` answers are written, and all of them sent")
    return "; ".join([*notes, *_notes_on_parts(body, traits)])


def _notes_on_parts(body: Body, traits: Traits) -> Iterator[str]:
    parts = _special_parts(body)
    if not traits.vision and any(part["type"] in IMAGE_PARTS for part in parts):
        yield "images were left out: this model reads text only"
    if not traits.vision and any(part["type"] in OTHER_MEDIA for part in parts):
        yield "sound and video were left out: this model reads text only"
    if any(map(_is_unreadable, parts)):
        yield "files were left out: only files of text can be read here"


def _is_unreadable(part: Mapping[str, Any]) -> bool:
    if part["type"] in FILE_PARTS:
        return _read_file(part) is None
    return part["type"] == "document" and DOCUMENT_NOTE in document_text(part)


def is_function(tool: object) -> bool:
    """Return whether an OpenAI tool is one that the client runs; the others run on OpenAI's servers."""
    return isinstance(tool, dict) and tool.get("type") == "function"


def _is_left_out(tool: object, *, is_response: bool) -> bool:
    """Return whether a tool of any dialect is left out; Anthropic's own have a dated type and no schema.

    A `custom` tool is Anthropic's name for a client's tool, and OpenAI's for one that takes text in any form.
    """
    if not isinstance(tool, dict) or is_function(tool) or isinstance(tool.get("input_schema"), dict):
        return False
    if tool.get("type") == "namespace" and isinstance(inner := tool.get("tools"), list):
        return not all(is_function(one) and isinstance(one.get("name"), str) for one in inner)
    kind = tool.get("type") or "custom"
    return kind != "custom" or is_response or "format" in tool or isinstance(tool.get("custom"), dict)


def _special_parts(body: Body) -> list[Mapping[str, Any]]:
    """Return the parts of all messages and items, and of results of tools, that may be left out."""
    found: list[Mapping[str, Any]] = []
    for name, fields in (("messages", ("content",)), ("input", ("content", "output"))):
        if isinstance(given := body.get(name), list):
            for message in given:
                if isinstance(message, dict):
                    for field in fields:
                        _collect(message.get(field), found)
    return found


def _collect(content: Any, found: list[Mapping[str, Any]]) -> None:
    # not a generator: a long conversation has thousands of parts
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
            continue
        if kind == "tool_result":
            _collect(part.get("content"), found)
        elif kind in _SPECIAL_PARTS:
            found.append(part)
