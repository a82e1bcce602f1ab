"""/v1/tasks: what the worker was asked to do and could not, after all its tries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from bouchet_api.dependencies import PartsDep

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

TaskId = Annotated[str, Path(max_length=300, description="as the list names it", examples=["submit-x7k2m4qfh3ab"])]


class Failed(BaseModel):
    """A task that failed at every try. Its deployment gets another round later, whatever becomes of this."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    task: str = Field(description="submit or stop")
    deployment: str
    failed_at: datetime | None
    reason: str = Field(description="the error, in one line; the worker's log has its trace")


class FailedTasks(BaseModel):
    """The newest first."""

    tasks: list[Failed]


@router.get("/failed")
def list_failed(parts: PartsDep) -> FailedTasks:
    """Tasks that wait for a person."""
    return FailedTasks(tasks=[Failed.model_validate(one) for one in parts.tasks.failed()])


@router.post("/failed/{task}/retry", status_code=202)
def retry(parts: PartsDep, task: TaskId) -> Failed:
    """Tries it once more, now."""
    return Failed.model_validate(parts.tasks.retry(task))


@router.delete("/failed/{task}")
def drop(parts: PartsDep, task: TaskId) -> Failed:
    """Forgets it. The deployment itself goes on until it is ended."""
    return Failed.model_validate(parts.tasks.drop(task))
