"""Recorded requests: what of them is kept, how they are packed into small files, and how they are read again. Pure.

A text becomes `<<filler 1234>>`, in place of that many letters; a field that is as in an earlier request (counted
from 0) is `<<as in 2>>`, and a list that begins as there begins with `<<first 3 as in 2>>`.
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
# texts that begin so keep their beginning: rules look at it
_HEADS = re.compile(r"x-anthropic-billing-header: ?|<system-reminder>\n?")
# strings under these keys are words of the dialect, not of a person or a machine
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
# a picture of one pixel is private to no one
_MOST_DATA = 200

Body = dict[str, Any]


def blanked(body: Body) -> Body:
    """Replace every text of the body by filler, and ids by numbers."""
    ids: dict[str, str] = {}

    def blank(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {word: blank(word, inner) for word, inner in value.items()}
        if isinstance(value, list):
            return value if key in _SCHEMA_LISTS else [blank(key, inner) for inner in value]
        if not isinstance(value, str) or key in _DIALECT or (key == "data" and len(value) <= _MOST_DATA):
            return value
        if key in ("id", "tool_use_id"):
            return ids.setdefault(value, f"toolu_{len(ids) + 1}")
        return _filler(value)

    return {key: blank(key, value) for key, value in body.items()}


def _filler(text: str) -> str:
    head = _HEADS.match(text)
    kept = head[0] if head else ""
    return f"{kept}<<filler {len(text) - len(kept)}>>" if len(text) > len(kept) else kept


def pack(requests: list[Body]) -> list[Body]:
    """Pack the requests, leaving out what a body shares with an earlier one."""
    packed, bodies = [], list[Body]()
    for request in requests:
        short = {key: _since([body.get(key) for body in bodies], value) for key, value in request["body"].items()}
        packed.append({**request, "body": short})
        bodies.append(request["body"])
    return packed


def unpack(requests: list[Body]) -> list[Body]:
    """Restore packed requests, with the fillers written out."""
    bodies = list[Body]()
    for request in requests:
        bodies.append({key: _again(bodies, key, value) for key, value in request["body"].items()})
    return [{**request, "body": _written(body)} for request, body in zip(requests, bodies, strict=True)]


def recordings() -> Iterator[tuple[str, list[Body]]]:
    """Return every recorded client and its requests."""
    for path in sorted(RECORDED.glob("*.json")):
        found = json.loads(path.read_text())
        yield found["client"], unpack(found["requests"])


def _since(earlier: list[Any], new: Any) -> Any:
    if not isinstance(new, dict | list):
        return new
    if new in earlier:
        return f"<<as in {earlier.index(new)}>>"
    shared = [_shared(old, new) for old in earlier]
    most = max(shared, default=0)
    return [f"<<first {most} as in {shared.index(most)}>>", *new[most:]] if most else new


def _shared(old: Any, new: Any) -> int:
    """Count the equal items at the beginning of both lists."""
    if not isinstance(old, list) or not isinstance(new, list):
        return 0
    return next((n for n, (one, two) in enumerate(zip(old, new, strict=False)) if one != two), min(len(old), len(new)))


def _again(bodies: list[Body], key: str, new: Any) -> Any:
    if isinstance(new, str) and (found := _SAME.fullmatch(new)):
        return bodies[int(found[1])][key]
    if isinstance(new, list) and new and isinstance(new[0], str) and (found := _FIRST.fullmatch(new[0])):
        return [*bodies[int(found[2])][key][: int(found[1])], *new[1:]]
    return new


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _written(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_written(inner) for inner in value]
    return _FILLER.sub(lambda found: _letters(int(found[1])), value) if isinstance(value, str) else value


def _letters(count: int) -> str:
    return (SENTENCE * (count // len(SENTENCE) + 1))[:count]
