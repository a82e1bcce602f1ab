"""The task that takes a deployment to Slurm. Every step may be the last one before a crash; run it again.

Exactly one job comes of it: sbatch is called only under the deployment's lease, only after the record says that it is
about to be called, and never while a job of that name exists or may still arrive.
"""

from __future__ import annotations

import logging

from bouchet_core.deployments import Deployment, Ending, Job, Phase
from bouchet_core.errors import (
    ClusterUnavailableError,
    ConfigurationError,
    GatewayError,
    LaunchRefusedError,
    NoFreeSlotError,
    NotAllowedError,
    RemoteCommandError,
    RemoteFileError,
    SlurmOutputError,
    UnknownModelError,
)

from bouchet_worker.context import WorkerContext
from bouchet_worker.reconcile.recovery import render_record_file
from bouchet_worker.scripts import stage_scripts
from bouchet_worker.slurm import commands as slurm
from bouchet_worker.slurm.find_job import find_job, may_still_arrive, queue_rows
from bouchet_worker.slurm.outage import unanswered
from bouchet_worker.slurm.submit_errors import refusal_in_words

from .memory_check import memory_of
from .model_check import refuse_absent
from .pin_check import refuse_other_than_pinned
from .plan import SBATCH_TIMEOUT_S, command_of, files_of, placement_of, planned

log = logging.getLogger(__name__)

# longer than sbatch and the gateway's grace take together, for it is renewed right before that call
LEASE_S = 90.0

_HOPELESS = (
    LaunchRefusedError,
    UnknownModelError,
    ConfigurationError,
    NoFreeSlotError,
    NotAllowedError,
    RemoteFileError,
)


def lease_name(deployment: str) -> str:
    """The lease under which one worker at a time acts for a deployment."""
    return f"task:{deployment}"


def submit(context: WorkerContext, deployment: str) -> str:
    """Says in a word what came of it. Raises RecordError and StoreUnavailableError; the loop tries again."""
    if context.store.get(deployment).phase not in (Phase.REQUESTED, Phase.SUBMITTING):
        return "nothing to do"
    if not context.store.lease(lease_name(deployment), context.owner, LEASE_S):
        return "another worker does it"
    try:
        return _submit(context, context.store.get(deployment))
    finally:
        context.store.release(lease_name(deployment), context.owner)


def _submit(context: WorkerContext, record: Deployment) -> str:
    try:
        return _steps(context, record)
    except _HOPELESS as exc:
        log.warning("deployment %s: launch failed: %s", record.id, exc)
        end(context, record.id, Ending.FAILED, str(exc))
        return "failed"
    except (GatewayError, SlurmOutputError) as exc:
        waits = "waits for the SSH connection" if isinstance(exc, ClusterUnavailableError) else "will be tried again"
        log.warning("deployment %s: launch %s: %s", record.id, waits, exc)
        note(context, record.id, f"{waits}: {unanswered(str(exc))}")
        return "later"


def _steps(context: WorkerContext, record: Deployment) -> str:
    if record.phase not in (Phase.REQUESTED, Phase.SUBMITTING) or record.stop_requested_at is not None:
        return "nothing to do"
    rows = queue_rows(context)
    if record.job is None:
        record = _plan(context, record)
    job = _job(record)
    found = find_job(context, job, rows)
    if found is None and may_still_arrive(context, job):
        note(context, record.id, "sbatch has not answered; looking whether the job arrived")
        return "later"
    if found is None:
        refuse_absent(context, record.model)
        stage_scripts(context)
        refuse_other_than_pinned(context, record)
        record = _fit(context, record, job)
        job = _job(record)
        _stage_job(context, record, job)
        found = _sbatch(context, record, job)
    if found is None:
        return "later"
    take_id(context, record.id, found)
    log.info("deployment %s: Slurm job %s (%s)", record.id, found, job.name)
    return f"job {found}"


def _job(record: Deployment) -> Job:
    if record.job is None:
        raise LaunchRefusedError("the record has no job")
    return record.job


# steps


def _plan(context: WorkerContext, record: Deployment) -> Deployment:
    """Chooses slot, image and placement, and keeps them on the record before anything happens on the cluster."""
    job = planned(context, record, context.store.take_slot(record.id, context.slot_count))
    placement = placement_of(job)

    def change(old: Deployment) -> Deployment:
        if old.job is not None or old.phase is not Phase.REQUESTED:
            return old
        new = old.with_job(job, context.now()).moved(Phase.SUBMITTING, context.now(), reason=placement.why)
        return new.model_copy(update={"version": old.version + 1})

    return context.store.update(record.id, change)


def _fit(context: WorkerContext, record: Deployment, job: Job) -> Deployment:
    """Keeps on the record what was reckoned of memory; LaunchRefusedError when it cannot fit."""
    memory = memory_of(context, record, job)

    def change(old: Deployment) -> Deployment:
        if old.job is None or old.job.memory == memory or not old.is_live:
            return old
        return old.with_job(old.job.model_copy(update={"memory": memory}), context.now())

    return context.store.update(record.id, change)


def _stage_job(context: WorkerContext, record: Deployment, job: Job) -> None:
    files = {
        f"{context.layout.job(job.name)}/{name}": content for name, content in files_of(context, record, job).items()
    }
    paper = render_record_file(record, context.installation, context.now())
    context.gateway.put_all({**files, context.layout.record(job.name): paper})


def _sbatch(context: WorkerContext, record: Deployment, job: Job) -> int | None:
    """The new job's id; None when it has to be looked for later, or must not be submitted any more."""
    asked = context.store.update(record.id, lambda old: _about_to_ask(old, context))
    if asked.stop_requested_at is not None or asked.phase is not Phase.SUBMITTING:
        return None
    if not context.store.lease(lease_name(record.id), context.owner, LEASE_S):
        return None
    try:
        return slurm.parse_job_id(context.gateway.run(command_of(context, job), timeout_s=SBATCH_TIMEOUT_S).stdout)
    except RemoteCommandError as exc:
        if slurm.may_have_submitted(exc.stderr) or slurm.is_busy(exc.stderr):
            raise
        raise LaunchRefusedError(refusal_in_words(exc.stderr)) from exc


def _about_to_ask(old: Deployment, context: WorkerContext) -> Deployment:
    if old.job is None or old.stop_requested_at is not None or old.phase is not Phase.SUBMITTING:
        return old
    asked = {"asked_at": context.now(), "submission": tuple(command_of(context, old.job))}
    return old.with_job(old.job.model_copy(update=asked), context.now())


# records


def take_id(context: WorkerContext, deployment: str, job_id: int) -> Deployment:
    """Keeps the Slurm id on the record, which is queued from now on."""

    def change(old: Deployment) -> Deployment:
        if old.job is None or old.phase is not Phase.SUBMITTING:
            return old
        job = old.job.model_copy(update={"slurm_id": job_id, "log": context.layout.log(job_id)})
        new = old.with_job(job, context.now()).moved(Phase.QUEUED, context.now(), reason="submitted")
        return new.model_copy(update={"version": old.version + 1})

    return context.store.update(deployment, change)


def end(context: WorkerContext, deployment: str, ending: Ending, reason: str) -> Deployment:
    """Ends a deployment that has nothing on the cluster."""

    def change(old: Deployment) -> Deployment:
        return old.moved(Phase.ENDED, context.now(), reason=reason, ending=ending) if old.is_live else old

    return context.store.update(deployment, change)


def note(context: WorkerContext, deployment: str, reason: str) -> Deployment:
    """Says on the record why it does not go on; the same words again change nothing."""

    def change(old: Deployment) -> Deployment:
        if old.reason == reason or not old.is_live:
            return old
        return old.moved(old.phase, context.now(), reason=reason)

    return context.store.update(deployment, change)
