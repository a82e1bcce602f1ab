"""/v1/orphans and /v1/tasks: jobs without a record, and failed background tasks, for a person to resolve."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from bouchet_core.deployments import Deployment, Orphan
from bouchet_core.tasks import TaskName
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from bouchet_api.dependencies import StateDep
from bouchet_api.openapi import examples
from bouchet_api.task_client import FailedTask

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1")

# the worker runs squeue and then reads a file of each job
WAIT_S = 25.0

SlurmId = Annotated[int, Path(ge=1, le=10**12, description="Slurm's job id")]
# the ids that RQ accepts
TaskId = Annotated[
    str,
    Path(pattern=r"^[A-Za-z0-9_-]{1,300}$", description="id from the list", examples=["submit-x7k2m4qfh3ab"]),
]

ORPHANS_200: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": examples.ORPHANS}}}}


class OrphanList(BaseModel):
    """Slurm jobs named like ours that no live record lists."""

    orphans: list[Orphan] = Field(description='`owner` is "another" for jobs of another bouchet-llm installation')


class FailedTaskList(BaseModel):
    """Failed background tasks, newest first."""

    tasks: list[FailedTask]


@router.get("/orphans", tags=["orphans"], responses=ORPHANS_200)
def list_orphans(
    state: StateDep,
    fresh: Annotated[bool, Query(description="query the cluster; otherwise return the worker's last result")] = True,
) -> OrphanList:
    """List Slurm jobs without a record.

    The worker adopts this installation's own jobs by itself where it can; those are not listed.
    """
    if not fresh:
        return OrphanList(orphans=list(state.store.orphans.seen()))
    return OrphanList(orphans=state.tasks.query(TaskName.LIST_ORPHANS, wait_s=WAIT_S))


@router.post("/orphans/{slurm_id}/adopt", status_code=201, tags=["orphans"])
def adopt_orphan(state: StateDep, slurm_id: SlurmId) -> Deployment:
    """Make the job a deployment of this installation, whichever installation launched it."""
    adopted = Deployment.model_validate(state.tasks.query(TaskName.ADOPT_ORPHAN, slurm_id, wait_s=WAIT_S))
    log.info("deployment %s: adopted job %s", adopted.id, slurm_id)
    return adopted


@router.delete("/orphans/{slurm_id}", status_code=202, tags=["orphans"])
def cancel_orphan(state: StateDep, slurm_id: SlurmId) -> Orphan:
    """Cancel the job if it is an orphan."""
    cancelled = Orphan.model_validate(state.tasks.query(TaskName.CANCEL_ORPHAN, slurm_id, wait_s=WAIT_S))
    log.info("orphan job %s: cancelled", slurm_id)
    return cancelled


@router.get("/tasks/failed", tags=["tasks"])
def list_failed_tasks(state: StateDep) -> FailedTaskList:
    """List background tasks that failed at every try."""
    return FailedTaskList(tasks=state.tasks.failed())


@router.post("/tasks/failed/{task}/retry", status_code=202, tags=["tasks"])
def retry_failed_task(state: StateDep, task: TaskId) -> FailedTask:
    """Enqueue a failed task again."""
    return state.tasks.retry(task)


@router.delete("/tasks/failed/{task}", tags=["tasks"])
def drop_failed_task(state: StateDep, task: TaskId) -> FailedTask:
    """Delete a failed task. Its deployment stays as it is until it is cancelled."""
    return state.tasks.drop(task)
