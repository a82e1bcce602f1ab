"""Errors as application/problem+json (RFC 9457): one HTTP status for every kind, and messages for invalid requests.

Messages about a request name the field and never repeat its value: it may be a passcode.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bouchet_core.errors import BouchetError, UnknownModelError
from fastapi import Response
from pydantic import BaseModel, Field

MEDIA_TYPE = "application/problem+json"
# value of the Retry-After header of every 503
RETRY_AFTER_S = 5


class IdempotencyKeyReusedError(BouchetError):
    """An Idempotency-Key was sent with two different requests."""

    kind = "idempotency_key_reused"


class LogNotFoundError(BouchetError):
    """The deployment's job has no log file yet."""

    kind = "no_log_yet"


class TargetsMissingError(BouchetError):
    """NOTIFY_URLS names no target."""

    kind = "targets_missing"

    def __init__(self) -> None:
        super().__init__(
            "no target is configured: write URLs such as ntfys://TOPIC into NOTIFY_URLS of .env, then run `make up`"
        )


class NotifierSilentError(BouchetError):
    """The notifier does not run, or has not answered in time."""

    kind = "notifier_silent"


# All kinds of the error trees of bouchet_core and bouchet_api; a test checks that none is missing.
STATUS_BY_KIND: Mapping[str, int] = {
    "error": 500,
    "configuration": 500,
    "unknown_model": 404,
    "launch_refused": 422,
    "record": 409,
    "unknown_deployment": 404,
    "unknown_download": 404,
    "unknown_pin": 404,
    "unknown_image_job": 404,
    "image_in_use": 409,
    "image_missing": 404,
    "hub_model": 422,
    "model_in_use": 409,
    "model_missing": 404,
    "other_work_in_progress": 409,
    "name_taken": 409,
    "no_free_slot": 409,
    "illegal_transition": 409,
    "stale_record": 409,
    "unreadable_record": 409,
    "unknown_orphan": 404,
    "unknown_task": 404,
    "orphan_refused": 409,
    "attach_refused": 422,
    "server_unreachable": 502,
    "server_key_refused": 422,
    "no_model_server": 422,
    "model_not_served": 422,
    "key_name_taken": 409,
    "unknown_key": 404,
    "store": 503,
    "store_unavailable": 503,
    "store_refused": 500,
    "gateway": 502,
    "cluster_unavailable": 503,
    "gateway_unreachable": 503,
    "tunnel_down": 503,
    "human_needed": 503,
    "command_timeout": 504,
    "command_failed": 502,
    "output_too_long": 502,
    "file_missing": 404,
    "remote_refused": 502,
    "untrusted_folder": 502,
    "not_allowed": 403,
    "stale_prompt": 409,
    "host_key_not_trusted": 409,
    "slurm_output": 502,
    "idempotency_key_reused": 422,
    "no_log_yet": 404,
    "worker_silent": 503,
    "notifier_silent": 503,
    "targets_missing": 409,
    "sign_in_refused": 403,
    "link_refused": 403,
    "session_unchecked": 503,
    "ledger_unavailable": 503,
    "invalid_period": 422,
    "chat_refused": 502,
}

TITLES: Mapping[int, str] = {
    400: "Bad request",
    401: "The key is missing or wrong",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    411: "Length required",
    413: "Too large",
    422: "Cannot be processed",
    500: "Internal error",
    502: "The cluster refused",
    503: "Not available right now",
    504: "Timed out",
}


class FieldProblem(BaseModel):
    """An invalid field of a request."""

    field: str = Field(description="names and positions joined by dots; empty for the whole body")
    problem: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="what happened and what to do next")
    kind: str = Field(description="identifier of the error, for programs")
    errors: list[FieldProblem] = Field(default=[], description="the invalid fields of the request")
    near: list[str] = Field(default=[], description="similar names, where a name is unknown")


def problem(status: int, kind: str, detail: str, errors: Sequence[FieldProblem] = ()) -> Problem:
    """Return a problem with the title of its status."""
    return Problem(title=TITLES[status], status=status, detail=encodable(detail), kind=kind, errors=list(errors))


def problem_of(error: BouchetError) -> Problem:
    """Return the problem of an error."""
    made = problem(STATUS_BY_KIND[error.kind], error.kind, str(error))
    return made.model_copy(update={"near": list(error.near)}) if isinstance(error, UnknownModelError) else made


def encodable(text: str) -> str:
    """Return the text without lone surrogates, which JSON can contain and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the problem as an HTTP response, without its empty lists."""
    extra = dict(headers or {})
    if problem.status == 503:
        extra.setdefault("Retry-After", str(RETRY_AFTER_S))
    body = {name: value for name, value in problem.model_dump().items() if value != []}
    return Response(json.dumps(body), problem.status, extra, MEDIA_TYPE)


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
    "task": "the id of a task as the list has it: letters, digits, `_` and `-`",
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
        return "is missing" if len(error["loc"]) > 1 else "the body is missing; send a JSON object"
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
