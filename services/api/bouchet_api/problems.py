"""Errors as clients see them: application/problem+json (RFC 9457), one status for every kind of error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from bouchet_core.errors import BouchetError, UnknownModelError
from fastapi import Response
from pydantic import BaseModel, Field

MEDIA_TYPE = "application/problem+json"
# what a client may sensibly wait before it asks again
RETRY_AFTER_S = 5


class IdempotencyKeyReusedError(BouchetError):
    """One Idempotency-Key, two different requests."""

    kind = "idempotency_key_reused"


class LogNotFoundError(BouchetError):
    """The deployment's job has written nothing so far."""

    kind = "no_log_yet"


# Every kind of core's tree and of ours; a test holds it total.
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
    422: "Cannot be done as asked",
    500: "Something is wrong on this side",
    502: "The cluster said no",
    503: "Not available right now",
    504: "No answer in time",
}


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    field: str = Field(description="where: names and positions joined by dots; empty for the whole body")
    problem: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="what happened and what to do next, for people")
    kind: str = Field(description="one word for programs")
    errors: list[FieldProblem] = Field(
        default=[], description="the fields at fault in a request that could not be read"
    )
    near: list[str] = Field(default=[], description="names that were perhaps meant")


def problem(status: int, kind: str, detail: str, errors: Sequence[FieldProblem] = ()) -> Problem:
    """A problem with its usual title."""
    return Problem(title=TITLES[status], status=status, detail=encodable(detail), kind=kind, errors=list(errors))


def problem_of(error: BouchetError) -> Problem:
    """The problem that stands for an error of the tree."""
    made = problem(STATUS_BY_KIND[error.kind], error.kind, str(error))
    return made.model_copy(update={"near": list(error.near)}) if isinstance(error, UnknownModelError) else made


def encodable(text: str) -> str:
    """The text without lone surrogates, which JSON may carry and UTF-8 may not."""
    return text.encode("utf-8", "replace").decode("utf-8")


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The problem as an HTTP response; empty lists are left out."""
    extra = dict(headers or {})
    if problem.status == 503:
        extra.setdefault("Retry-After", str(RETRY_AFTER_S))
    body = {name: value for name, value in problem.model_dump().items() if value != []}
    return Response(json.dumps(body), problem.status, extra, MEDIA_TYPE)
