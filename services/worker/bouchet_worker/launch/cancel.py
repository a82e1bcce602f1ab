"""The task that stops a deployment: by job id, and only a job that carries the deployment's own name."""

from __future__ import annotations

import logging
from datetime import timedelta

from bouchet_core.deployments import Deployment, Ending, Job, Phase
from bouchet_core.errors import GatewayError, SlurmOutputError

from bouchet_worker.context import WorkerContext
from bouchet_worker.slurm import commands as slurm
from bouchet_worker.slurm.find_job import find_job, may_still_arrive, queue_rows
from bouchet_worker.slurm.outage import unanswered

from .submit import LEASE_S, end, lease_name, note, take_id

log = logging.getLogger(__name__)

SCANCEL_TIMEOUT_S = 30.0
# what a serving job gets to finish the answers under way before Slurm ends it by force
FINISH = timedelta(seconds=45)


def stop(context: WorkerContext, deployment: str) -> str:
    """Says in a word what came of it. The record ends when Slurm says that the job has."""
    record = context.store.update(deployment, lambda old: _wanted_no_more(old, context))
    if not record.is_live:
        return "has ended"
    if not context.store.lease(lease_name(deployment), context.owner, LEASE_S):
        return "another worker acts for it"
    try:
        return _stop(context, context.store.get(deployment))
    except (GatewayError, SlurmOutputError) as exc:
        log.warning("deployment %s: cancel will be tried again: %s", deployment, exc)
        note(context, deployment, f"being cancelled, as soon as the cluster can be asked: {unanswered(str(exc))}")
        return "later"
    finally:
        context.store.release(lease_name(deployment), context.owner)


def _wanted_no_more(old: Deployment, context: WorkerContext) -> Deployment:
    return old if old.stop_requested_at is not None or not old.is_live else old.asked_to_stop(context.now())


def _stop(context: WorkerContext, record: Deployment) -> str:
    job = record.job
    if job is None or (job.slurm_id is None and job.asked_at is None):
        return _never_submitted(context, record)
    rows = queue_rows(context)
    job_id = job.slurm_id or find_job(context, job, rows)
    if job_id is None:
        return "later" if may_still_arrive(context, job) else _never_submitted(context, record)
    if job.slurm_id is None:
        record = take_id(context, record.id, job_id)
    if not any((row.job_id, row.name) == (job_id, job.name) for row in rows):
        # it has ended already, or the id is another job's by now: the loop finds out which
        return "not in the queue"
    argv = slurm.ask_to_end_argv(job_id) if _may_finish(record, job, context) else slurm.scancel_argv(job_id)
    context.gateway.run(argv, timeout_s=SCANCEL_TIMEOUT_S)
    log.info("deployment %s: %s", record.id, " ".join(argv))
    context.store.update(record.id, lambda old: _being_cancelled(old, job, context))
    return f"cancelled job {job_id}"


def _may_finish(record: Deployment, job: Job, context: WorkerContext) -> bool:
    if record.phase is Phase.DRAINING:
        return job.listens and context.now() - job.since.get(Phase.DRAINING, record.updated_at) < FINISH
    return record.phase is Phase.READY


def _never_submitted(context: WorkerContext, record: Deployment) -> str:
    end(context, record.id, Ending.CANCELLED, "cancelled before it was submitted")
    return "cancelled before it was submitted"


def _being_cancelled(old: Deployment, job: Job, context: WorkerContext) -> Deployment:
    """No new requests from here on: a draining deployment is not routed to."""
    if not old.is_live or old.reason == "being cancelled":
        return old
    phase = Phase.DRAINING if old.phase in (Phase.STARTING, Phase.READY) else old.phase
    return old.moved(phase, context.now(), reason="being cancelled")
