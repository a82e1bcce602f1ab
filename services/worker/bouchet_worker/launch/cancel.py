"""The errand that stops a deployment: by job id, and only a job that carries the deployment's own name."""

from __future__ import annotations

import logging
from datetime import timedelta

from bouchet_core.deployments import Deployment, Ending, Job, Phase
from bouchet_core.errors import GatewayError, SlurmOutputError

from bouchet_worker.context import Desk
from bouchet_worker.slurm import commands as slurm
from bouchet_worker.slurm.find_job import find_job, may_still_arrive, queue_rows
from bouchet_worker.slurm.outage import unanswered

from .submit import LEASE_S, end, lease_name, note, take_id

log = logging.getLogger(__name__)

SCANCEL_TIMEOUT_S = 30.0
# what a serving job gets to finish the answers under way before Slurm ends it by force
FINISH = timedelta(seconds=45)


def stop(desk: Desk, deployment: str) -> str:
    """Says in a word what came of it. The record ends when Slurm says that the job has."""
    record = desk.store.update(deployment, lambda old: _wanted_no_more(old, desk))
    if not record.is_live:
        return "has ended"
    if not desk.store.lease(lease_name(deployment), desk.owner, LEASE_S):
        return "another worker acts for it"
    try:
        return _stop(desk, desk.store.get(deployment))
    except (GatewayError, SlurmOutputError) as exc:
        log.warning("deployment %s: cancel will be tried again: %s", deployment, exc)
        note(desk, deployment, f"being cancelled, as soon as the cluster can be asked: {unanswered(str(exc))}")
        return "later"
    finally:
        desk.store.release(lease_name(deployment), desk.owner)


def _wanted_no_more(old: Deployment, desk: Desk) -> Deployment:
    return old if old.stop_requested_at is not None or not old.is_live else old.asked_to_stop(desk.now())


def _stop(desk: Desk, record: Deployment) -> str:
    job = record.job
    if job is None or (job.slurm_id is None and job.asked_at is None):
        return _never_submitted(desk, record)
    rows = queue_rows(desk)
    job_id = job.slurm_id or find_job(desk, job, rows)
    if job_id is None:
        return "later" if may_still_arrive(desk, job) else _never_submitted(desk, record)
    if job.slurm_id is None:
        record = take_id(desk, record.id, job_id)
    if not any((row.job_id, row.name) == (job_id, job.name) for row in rows):
        # it has ended already, or the id is another job's by now: the loop finds out which
        return "not in the queue"
    argv = slurm.ask_to_end_argv(job_id) if _may_finish(record, job, desk) else slurm.scancel_argv(job_id)
    desk.gateway.run(argv, timeout_s=SCANCEL_TIMEOUT_S)
    log.info("deployment %s: %s", record.id, " ".join(argv))
    desk.store.update(record.id, lambda old: _being_cancelled(old, job, desk))
    return f"cancelled job {job_id}"


def _may_finish(record: Deployment, job: Job, desk: Desk) -> bool:
    if record.phase is Phase.DRAINING:
        return job.listens and desk.now() - job.since.get(Phase.DRAINING, record.updated_at) < FINISH
    return record.phase is Phase.READY


def _never_submitted(desk: Desk, record: Deployment) -> str:
    end(desk, record.id, Ending.CANCELLED, "cancelled before it was submitted")
    return "cancelled before it was submitted"


def _being_cancelled(old: Deployment, job: Job, desk: Desk) -> Deployment:
    """No new requests from here on: a draining deployment is not routed to."""
    if not old.is_live or old.reason == "being cancelled":
        return old
    phase = Phase.DRAINING if old.phase in (Phase.STARTING, Phase.READY) else old.phase
    return old.moved(phase, desk.now(), reason="being cancelled")
