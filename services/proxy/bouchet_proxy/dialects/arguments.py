"""Arguments of tool calls in a history: an object, whatever the model wrote. Pure.

Models write arguments that are no JSON, or cut off, and clients send the call back with the tool's complaint. vLLM
parses the arguments of every call in a history and fails on these, so that the conversation could never go on.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from .tokens import Body

# the name under which a model reads again what is no object
FIELD = "input"


def object_arguments(given: Any) -> Body:
    """Return the arguments of a call as an object; what is none is in it under one name."""
    value = _parse(given) if isinstance(given, str) else given
    if value is None:
        return {}
    return value if isinstance(value, dict) else {FIELD: value}


def text_arguments(given: Any) -> str:
    """Return the arguments of a call as the text of an object; a text of one stays as it is."""
    if isinstance(given, str) and isinstance(_parse(given), dict):
        return given
    return json.dumps(object_arguments(given))


def _parse(text: str) -> Any:
    """Return the value in a text, the text itself if it is no JSON, None for an empty one."""
    try:
        return orjson.loads(text) if text.strip() else None
    except orjson.JSONDecodeError:
        return text
