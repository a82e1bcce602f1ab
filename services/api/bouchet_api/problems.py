"""Errors as application/problem+json (RFC 9457): one HTTP status for every kind of error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

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
    "name_taken": 409,
    "no_free_slot": 409,
    "illegal_transition": 409,
    "stale_record": 409,
    "unknown_orphan": 404,
    "unknown_task": 404,
    "orphan_refused": 409,
    "key_name_taken": 409,
    "unknown_key": 404,
    "store_unavailable": 503,
    "gateway": 502,
    "cluster_unavailable": 503,
    "gateway_unreachable": 503,
    "tunnel_down": 503,
    "human_needed": 503,
    "command_timeout": 504,
    "command_failed": 502,
    "file_missing": 404,
    "remote_refused": 502,
    "not_allowed": 403,
    "stale_prompt": 409,
    "host_key_not_trusted": 409,
    "slurm_output": 502,
    "idempotency_key_reused": 422,
    "no_log_yet": 404,
    "worker_silent": 503,
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
