"""/v1/orphans: jobs on the cluster that look like ours and that no live record speaks of."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from bouchet_core.deployments import Deployment, Orphan
from bouchet_core.tasks import TaskName
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from bouchet_api.dependencies import PartsDep
from bouchet_api.openapi import examples

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/orphans", tags=["orphans"])

# the worker asks squeue, then reads a file of each job
WAIT_S = 25.0

SlurmId = Annotated[int, Path(ge=1, le=10**12, description="Slurm's job id")]


class Orphans(BaseModel):
    """The jobs; those with `owner` "another" were launched by another installation of bouchet-llm."""

    orphans: list[Orphan]


SHOWN: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": examples.ORPHANS}}}}


@router.get("", responses=SHOWN)
def list_orphans(
    parts: PartsDep,
    fresh: Annotated[bool, Query(description="ask the cluster now; else what its last look found")] = True,
) -> Orphans:
    """Jobs without a record. This installation's own that can be made deployments again are, and are not listed."""
    if not fresh:
        return Orphans(orphans=list(parts.store.orphans.seen()))
    return Orphans(orphans=parts.tasks.ask(TaskName.LIST_ORPHANS, wait_s=WAIT_S))


@router.post("/{slurm_id}/adopt", status_code=201)
def adopt(parts: PartsDep, slurm_id: SlurmId) -> Deployment:
    """Makes the job a deployment of this installation, whoever launched it."""
    made = Deployment.model_validate(parts.tasks.ask(TaskName.ADOPT_ORPHAN, slurm_id, wait_s=WAIT_S))
    log.info("deployment %s: took over job %s", made.id, slurm_id)
    return made


@router.delete("/{slurm_id}", status_code=202)
def cancel(parts: PartsDep, slurm_id: SlurmId) -> Orphan:
    """Ends the job, if it is one of ours without a record."""
    ended = Orphan.model_validate(parts.tasks.ask(TaskName.CANCEL_ORPHAN, slurm_id, wait_s=WAIT_S))
    log.info("job %s, without a record: cancelled", slurm_id)
    return ended
