"""Queries of Slurm through the gateway: the queue, the user's resources, one job by name or id."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bouchet_core.errors import OutputTooLongError, RemoteCommandError, SlurmOutputError
from bouchet_core.placement import UserUsage

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import run_script_text

from .commands import (
    QUERY_TIMEOUT_S,
    QUEUE_FORMAT,
    sacct_by_name_argv,
    show_job_argv,
    show_reservations_argv,
    squeue_argv,
    usage_argv,
)
from .parsing import (
    MaintenanceWindow,
    QueueRow,
    parse_accounting,
    parse_job,
    parse_maintenance,
    parse_queue,
    parse_usage,
)

# sbatch ends within SBATCH_TIMEOUT_S; a job that it has not brought to Slurm a little later never arrives
ARRIVAL_LIMIT = timedelta(seconds=45)
QUEUE_SCRIPT = "list_queue.py"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobRef:
    """What a record knows of its job: the name always, the id once Slurm has answered."""

    name: str
    slurm_id: int | None
    # when sbatch was called, None before
    asked_at: datetime | None


def list_queue(context: WorkerContext) -> list[QueueRow]:
    """Return all jobs of the user that have not ended; only ours where the whole queue is too long."""
    if not context.has_long_queue.is_set():
        try:
            return parse_queue(context.gateway.run(squeue_argv(), timeout_s=QUERY_TIMEOUT_S).stdout)
        except OutputTooLongError as exc:
            log.info("%s: from now on only bouchet-llm's jobs are listed, by a script on the login node", exc)
            context.has_long_queue.set()
    return parse_queue(run_script_text(context, QUEUE_SCRIPT, QUEUE_FORMAT, timeout_s=QUERY_TIMEOUT_S))


def user_usage(context: WorkerContext) -> Mapping[str, UserUsage]:
    """Return what the user's jobs hold, by partition; nothing where this Slurm cannot print it.

    A placement without it is still valid: Slurm then queues the job until the limit allows it.
    """
    try:
        return parse_usage(context.gateway.run(usage_argv(), timeout_s=QUERY_TIMEOUT_S).stdout)
    except (RemoteCommandError, OutputTooLongError, SlurmOutputError):
        return {}


def maintenance_windows(context: WorkerContext) -> Sequence[MaintenanceWindow]:
    """Return the planned maintenance of the cluster; none where this Slurm does not show it.

    Slurm keeps jobs that would cross one in the queue, so a plan without it waits longer, and breaks nothing.
    """
    try:
        output = context.gateway.run(show_reservations_argv(), timeout_s=QUERY_TIMEOUT_S)
    except (RemoteCommandError, OutputTooLongError):
        return ()
    return parse_maintenance(output.stdout)


def find_job(context: WorkerContext, job: JobRef, rows: Sequence[QueueRow]) -> int | None:
    """Return the Slurm id of the job of that name; sacct is queried when sbatch was called and squeue lists none."""
    for row in rows:
        if row.name == job.name:
            return row.job_id
    if job.asked_at is None:
        return None
    argv = sacct_by_name_argv(job.name, job.asked_at)
    try:
        text = context.gateway.run(argv, timeout_s=QUERY_TIMEOUT_S).stdout
    except RemoteCommandError:
        # this cluster has no accounting
        return None
    found = [row.job_id for row in parse_accounting(text) if row.name == job.name]
    return found[-1] if found else None


def may_still_arrive(context: WorkerContext, job: JobRef) -> bool:
    """Return whether an sbatch whose answer was lost may still reach Slurm."""
    return job.asked_at is not None and context.now() - job.asked_at < ARRIVAL_LIMIT


def last_state(context: WorkerContext, job: JobRef) -> str:
    """Return the state of a job that squeue no longer lists, as printed; empty where slurmctld has forgotten it."""
    argv = show_job_argv(job.slurm_id or 0)
    try:
        row = parse_job(context.gateway.run(argv, timeout_s=QUERY_TIMEOUT_S).stdout)
    except (RemoteCommandError, SlurmOutputError):
        return ""
    return row.state if row.name == job.name else ""
