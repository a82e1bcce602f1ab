"""Messages for invalid requests. They name the field and never repeat its value: it may be a passcode."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .problems import FieldProblem, encodable

# what a field of this name takes, where pydantic's message would show a regular expression
_SLURM_NAME = "letters, digits and `_.:&|,-`, without spaces"
EXPECTED: Mapping[str, str] = {
    "name": "lower-case letters, digits, `.`, `_` and `-` (at most 63, with a letter or digit at both ends)",
    "time": "a walltime in Slurm's format, such as 06:00:00 or 2-00:00:00",
    "partition": _SLURM_NAME,
    "account": _SLURM_NAME,
    "qos": _SLURM_NAME,
    "constraint": _SLURM_NAME,
    "since": "a time span such as 15m, 24h or 30d",
    "expires_in": "a time span such as 12h, 30d or 8w",
    "after": "an event id, such as 1763800000000-0",
    "last-event-id": "the id of an event of this stream",
    "idempotency-key": "1 to 200 letters, digits or `_.:-`",
}

COMPARISONS: Mapping[str, str] = {
    "greater than or equal to ": "{} or more",
    "less than or equal to ": "{} or less",
}


def field_problems(errors: Iterable[Mapping[str, Any]], known: Sequence[str]) -> list[FieldProblem]:
    """Return pydantic's errors as field problems; `known` are the field names to suggest for a misspelt one."""
    return [FieldProblem(field=_field_path(error), problem=_message(error, known)) for error in errors]


def in_one_line(problems: Sequence[FieldProblem]) -> str:
    """Return all problems in one line."""
    return "; ".join(f"{p.field}: {p.problem}" if p.field else p.problem for p in problems)


def _field_path(error: Mapping[str, Any]) -> str:
    # for invalid JSON the place is a position in the text; the first part is body, query, path or header
    parts = () if error["type"] == "json_invalid" else error["loc"][1:]
    return encodable(".".join(str(part) for part in parts))


def _message(error: Mapping[str, Any], known: Sequence[str]) -> str:
    kind, last = error["type"], str(error["loc"][-1])
    if kind == "json_invalid":
        return f"the body is not valid JSON: {error.get('ctx', {}).get('error', 'cannot be decoded')}"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(last, known, n=1)
        return "unknown field; " + (f"did you mean `{near[0]}`?" if near else "GET /openapi.json lists the fields")
    if kind == "string_pattern_mismatch" and last.lower() in EXPECTED:
        return f"must be {EXPECTED[last.lower()]}"
    if kind == "model_attributes_type" and len(error["loc"]) == 1:
        return "the body must be a JSON object"
    if kind == "missing":
        return "is missing"
    return _plain(encodable(str(error["msg"])))


def _plain(message: str) -> str:
    """Return pydantic's message in the form `must be ...`."""
    text = message.removeprefix("Input should be ").removeprefix("Value error, ")
    if text == message:
        return text[:1].lower() + text[1:]
    if message.startswith("Value error, "):
        return text
    for comparison, plain in COMPARISONS.items():
        number = text.removeprefix(comparison)
        if number != text:
            return f"must be {plain.format(number)}"
    return f"must be {text}"
