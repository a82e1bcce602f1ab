"""Finding a job by its name: what keeps a launch from being submitted twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from bouchet_core.deployments import Job
from bouchet_core.errors import RemoteCommandError

from bouchet_worker.context import WorkerContext

from . import commands as slurm

LOOK_TIMEOUT_S = 20.0
# sbatch gives up after 30 s here; what it has not brought to Slurm by then it never will
SETTLE = timedelta(seconds=45)


def queue_rows(context: WorkerContext) -> list[slurm.QueueRow]:
    """All jobs of the user, now."""
    return slurm.parse_queue(context.gateway.run(slurm.squeue_argv(), timeout_s=LOOK_TIMEOUT_S).stdout)


def find_job(context: WorkerContext, job: Job, rows: Sequence[slurm.QueueRow]) -> int | None:
    """The Slurm id of the job of that name; accounting is asked when sbatch was called and squeue shows none."""
    for row in rows:
        if row.name == job.name:
            return row.job_id
    if job.asked_at is None:
        return None
    try:
        text = context.gateway.run(slurm.sacct_by_name_argv(job.name, job.asked_at), timeout_s=LOOK_TIMEOUT_S).stdout
    except RemoteCommandError:
        # no accounting on this cluster: squeue's word has to do
        return None
    found = [row.job_id for row in slurm.parse_accounting(text) if row.name == job.name]
    return found[-1] if found else None


def may_still_arrive(context: WorkerContext, job: Job) -> bool:
    """Whether an sbatch without an answer may yet reach Slurm."""
    return job.asked_at is not None and context.now() - job.asked_at < SETTLE
