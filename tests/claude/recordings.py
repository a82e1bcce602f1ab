"""Recorded requests: how they are made anonymous, packed into small files, and read again.

A text becomes `<<filler 1234>>`, which is unpacked to that many letters; a field equal to that of an earlier request
(counted from 0) is `<<as in 2>>`, and a list with the same beginning starts with `<<first 3 as in 2>>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parents[1] / "proxy" / "recorded"
SENTENCE = "The quick brown fox reads the file, edits the line and runs the test again. "
_FILLER = re.compile(r"<<filler (\d+)>>")
_SAME = re.compile(r"<<as in (\d+)>>")
_FIRST = re.compile(r"<<first (\d+) as in (\d+)>>")
# texts that begin like this keep their beginning: rules of the proxy depend on it
_HEADS = re.compile(r"x-anthropic-billing-header: ?|<system-reminder>\n?")
# strings under these keys belong to the dialect, not to a person or a machine
_DIALECT = frozenset(
    (
        "type",
        "role",
        "name",
        "model",
        "media_type",
        "effort",
        "ttl",
        "display",
        "keep",
        "format",
        "$schema",
        "tool_name",
    )
)
_SCHEMA_LISTS = frozenset(("enum", "required"))
# an image of one pixel is harmless
_MAX_DATA = 200

Body = dict[str, Any]


def anonymize(body: Body) -> Body:
    """Return the body with filler in place of every text, and with new ids."""
    ids: dict[str, str] = {}

    def replace(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: replace(name, inner) for name, inner in value.items()}
        if isinstance(value, list):
            return value if key in _SCHEMA_LISTS else [replace(key, inner) for inner in value]
        if not isinstance(value, str) or key in _DIALECT or (key == "data" and len(value) <= _MAX_DATA):
            return value
        if key in ("id", "tool_use_id"):
            return ids.setdefault(value, f"toolu_{len(ids) + 1}")
        return _filler(value)

    return {key: replace(key, value) for key, value in body.items()}


def _filler(text: str) -> str:
    head = _HEADS.match(text)
    kept = head[0] if head else ""
    return f"{kept}<<filler {len(text) - len(kept)}>>" if len(text) > len(kept) else kept


def pack(requests: list[Body]) -> list[Body]:
    """Return the requests without what a body shares with an earlier one."""
    packed, bodies = [], list[Body]()
    for request in requests:
        short = {key: _shorten([body.get(key) for body in bodies], value) for key, value in request["body"].items()}
        packed.append({**request, "body": short})
        bodies.append(request["body"])
    return packed


def unpack(requests: list[Body]) -> list[Body]:
    """Return the requests that were packed, with letters for the fillers."""
    bodies = list[Body]()
    for request in requests:
        bodies.append({key: _expand(bodies, key, value) for key, value in request["body"].items()})
    return [{**request, "body": _fill(body)} for request, body in zip(requests, bodies, strict=True)]


def read_recordings() -> Iterator[tuple[str, list[Body]]]:
    """Yield every recorded client, and its requests."""
    for path in sorted(RECORDED.glob("*.json")):
        found = json.loads(path.read_text())
        yield found["client"], unpack(found["requests"])


def _shorten(earlier: list[Any], new: Any) -> Any:
    if not isinstance(new, dict | list):
        return new
    if new in earlier:
        return f"<<as in {earlier.index(new)}>>"
    shared = [_shared_length(old, new) for old in earlier]
    longest = max(shared, default=0)
    return [f"<<first {longest} as in {shared.index(longest)}>>", *new[longest:]] if longest else new


def _shared_length(old: Any, new: Any) -> int:
    """Return with how many equal items both lists begin."""
    if not isinstance(old, list) or not isinstance(new, list):
        return 0
    return next((n for n, (one, two) in enumerate(zip(old, new, strict=False)) if one != two), min(len(old), len(new)))


def _expand(bodies: list[Body], key: str, new: Any) -> Any:
    if isinstance(new, str) and (found := _SAME.fullmatch(new)):
        return bodies[int(found[1])][key]
    if isinstance(new, list) and new and isinstance(new[0], str) and (found := _FIRST.fullmatch(new[0])):
        return [*bodies[int(found[2])][key][: int(found[1])], *new[1:]]
    return new


def _fill(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _fill(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner) for inner in value]
    return _FILLER.sub(lambda found: _letters(int(found[1])), value) if isinstance(value, str) else value


def _letters(count: int) -> str:
    return (SENTENCE * (count // len(SENTENCE) + 1))[:count]
