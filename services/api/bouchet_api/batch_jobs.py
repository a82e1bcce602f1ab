"""What the doors of downloads and image builds have in common: a record begun, a record ended, OpenAPI's answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from bouchet_core.batch_jobs import BatchJob
from bouchet_core.store import BatchJobStore
from fastapi import Response

log = logging.getLogger(__name__)

AnyBatchJob = TypeVar("AnyBatchJob", bound=BatchJob)
Answers = dict[int | str, dict[str, Any]]


def shown(example: Mapping[str, Any], status: int = 200, description: str = "") -> Answers:
    """An answer with that example in it."""
    described = {"description": description} if description else {}
    return {status: {"content": {"application/json": {"example": example}}, **described}}


def asked_for(example: Mapping[str, Any]) -> Answers:
    """What starting one answers."""
    return shown(example, 202, "on record; GET Location follows it")


def asked_to_end(example: Mapping[str, Any], model: type[BatchJob]) -> Answers:
    """What ending one answers."""
    over = shown(example, 200, "it had ended already")
    return {**shown(example, 202, "it will end"), 200: {**over[200], "model": model}}


def begin(
    records: BatchJobStore[AnyBatchJob],
    wanted: AnyBatchJob,
    send: Callable[[str], None],
    response: Response,
    place: str,
) -> AnyBatchJob:
    """The record, or the one under way for the same subject; its task is sent. place: of all such records."""
    made = records.create(wanted)
    if made.id == wanted.id:
        log.info("%s/%s: %s asked for", place, made.id, made.subject)
    if made.slurm_id is None:
        send(made.id)
    response.headers["Location"] = f"{place}/{made.id}"
    return made


def end(
    records: BatchJobStore[AnyBatchJob],
    record: AnyBatchJob,
    send: Callable[[str], None],
    response: Response,
    place: str,
) -> AnyBatchJob:
    """The record, no longer wanted, and its task sent; 200 where it had ended."""
    asked = records.update(record.id, lambda old: old.asked_to_stop(datetime.now(UTC)))
    if asked.is_live:
        send(asked.id)
        log.info("%s/%s: asked to end", place, asked.id)
    else:
        response.status_code = 200
    return asked
