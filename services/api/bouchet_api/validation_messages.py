"""Why a request could not be read, in words that name the field. Never repeats the value: it may be a passcode."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .problems import FieldProblem, encodable

# What a field of this name takes, where the schema's pattern would say it badly.
WANTED: Mapping[str, str] = {
    "name": "lower-case letters, digits, `.`, `_` and `-` (at most 63, a letter or digit at both ends)",
    "time": "a walltime as Slurm writes it, such as 06:00:00 or 2-00:00:00",
    "partition": "one word of letters, digits and `_.:&|,-`",
    "account": "one word of letters, digits and `_.:&|,-`",
    "qos": "one word of letters, digits and `_.:&|,-`",
    "constraint": "one word of letters, digits and `_.:&|,-`",
    "since": "a span of time such as 15m, 24h or 30d",
    "expires_in": "a span of time such as 12h, 30d or 8w",
    "after": "an event's id, such as 1763800000000-0",
    "last-event-id": "the id of an event of this stream",
    "idempotency-key": "1 to 200 letters, digits or `_.:-`",
}


def field_problems(errors: Iterable[Mapping[str, Any]], known: Sequence[str]) -> list[FieldProblem]:
    """pydantic's errors as sentences; `known` are the field names to suggest for a misspelt one."""
    return [FieldProblem(field=_place(error["loc"]), problem=_sentence(error, known)) for error in errors]


def in_one_line(problems: Sequence[FieldProblem]) -> str:
    """All problems in one sentence."""
    return "; ".join(f"{p.field}: {p.problem}" if p.field else p.problem for p in problems)


def _place(loc: Sequence[str | int]) -> str:
    # the first part says body, query, path or header, which the names tell anyway
    return encodable(".".join(str(part) for part in loc[1:]))


def _sentence(error: Mapping[str, Any], known: Sequence[str]) -> str:
    kind, last = error["type"], str(error["loc"][-1])
    if kind == "json_invalid":
        return f"is not valid JSON: {error.get('ctx', {}).get('error', 'cannot be read')}"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(last, known, n=1)
        return "no such field" + (f"; did you mean `{near[0]}`?" if near else f"; there are {', '.join(known)}")
    if kind == "string_pattern_mismatch" and last.lower() in WANTED:
        return f"must be {WANTED[last.lower()]}"
    if kind == "model_attributes_type" and len(error["loc"]) == 1:
        return "the body must be a JSON object"
    if kind == "missing":
        return "is missing"
    said = encodable(str(error["msg"])).removeprefix("Input should be ")
    return f"must be {said}" if said != error["msg"] else said[:1].lower() + said[1:]
