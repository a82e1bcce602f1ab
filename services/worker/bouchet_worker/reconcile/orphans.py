"""What people do with unrecorded jobs: list, adopt or cancel one. By Slurm job id, and only jobs of ours."""

from __future__ import annotations

import logging
import uuid

from bouchet_core.deployments import Deployment, Orphan
from bouchet_core.errors import OrphanRefusedError, UnknownOrphanError

from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.job_files import JobRecordFile, render_record_file
from bouchet_worker.scripts import remote_file_exists
from bouchet_worker.slurm.commands import SCANCEL_TIMEOUT_S, scancel_argv
from bouchet_worker.slurm.parsing import QueueRow
from bouchet_worker.slurm.queries import list_queue

from .job_keys import read_record_file
from .recovery import (
    NO_RECORD_FILE,
    JobRecovery,
    adopt_job,
    find_record,
    make_orphan,
    owns_job,
    parse_job_name,
    unrecorded_jobs,
)

log = logging.getLogger(__name__)

LEASE_S = 60.0


def list_orphans(context: WorkerContext) -> tuple[Orphan, ...]:
    """Query Slurm and return the orphans. Jobs of this installation that can be recovered are, and are not listed."""
    records = context.store.live()
    JobRecovery(context).recover(list_queue(context), records, context.store.orphans.seen())
    return context.store.orphans.seen()


def adopt_orphan(context: WorkerContext, slurm_id: int) -> Deployment:
    """Create a record for the job. From then on it belongs to this installation, whichever launched it."""
    row = _unrecorded_job(context, slurm_id)
    file = read_record_file(context, row.name)
    if file is None:
        raise OrphanRefusedError(slurm_id, NO_RECORD_FILE)
    if not context.store.lease(f"orphan:{slurm_id}", context.owner, LEASE_S):
        raise OrphanRefusedError(slurm_id, "another request is adopting it right now")
    try:
        if file.installation != context.installation:
            file = _made_ours(file)
            ours = render_record_file(file.deployment, context.installation, file.staged_at)
            context.gateway.put(context.paths.record(row.name), ours)
        deployment = file.deployment.id
        # a deployment that has ended stays ended
        deployment = deployment if find_record(context.store, deployment) is None else uuid.uuid4().hex[:12]
        record = adopt_job(context, file, row, deployment)
        log.info("deployment %s: adopted job %s (%s)", record.id, slurm_id, row.name)
        _unlist(context, slurm_id)
        return record
    finally:
        context.store.release(f"orphan:{slurm_id}", context.owner)


def _made_ours(file: JobRecordFile) -> JobRecordFile:
    """Return the file with the installation that launched the job in its deployment: `bouchet status` shows it."""
    first = file.deployment.launched_by or file.installation
    return file.model_copy(update={"deployment": file.deployment.model_copy(update={"launched_by": first})})


def cancel_orphan(context: WorkerContext, slurm_id: int) -> Orphan:
    """Cancel the job and return what was known of it. Its name must be ours and its folder must hold spec.json."""
    row = _unrecorded_job(context, slurm_id)
    listed = next((orphan for orphan in context.store.orphans.seen() if orphan.slurm_id == slurm_id), None)
    if not remote_file_exists(context, f"{context.paths.job(row.name)}/spec.json"):
        raise OrphanRefusedError(slurm_id, f"it has no job folder; cancel it with `scancel {slurm_id}`")
    context.gateway.run(scancel_argv(slurm_id), timeout_s=SCANCEL_TIMEOUT_S)
    log.info("unrecorded job %s (%s): cancelled", slurm_id, row.name)
    _unlist(context, slurm_id)
    return listed or make_orphan(row, None, "unknown", "")


def _unrecorded_job(context: WorkerContext, slurm_id: int) -> QueueRow:
    """Return the job's row.

    Raises UnknownOrphanError, OrphanRefusedError when a live record owns the job, UnreadableRecordError when one that
    cannot be read may own it.
    """
    rows = [row for row in list_queue(context) if row.job_id == slurm_id and parse_job_name(row.name)]
    records = context.store.live()
    if not rows or not unrecorded_jobs(rows, []):
        raise UnknownOrphanError(slurm_id)
    if not unrecorded_jobs(rows, records):
        owner = next(record for record in records if owns_job(record, rows[0]))
        raise OrphanRefusedError(
            slurm_id, f"it belongs to deployment {owner.id}; cancel it with `bouchet cancel {owner.id}`"
        )
    find_record(context.store, parse_job_name(rows[0].name) or "")
    return rows[0]


def _unlist(context: WorkerContext, slurm_id: int) -> None:
    """Remove the orphan from the list now, not only at the next step."""
    left = [orphan for orphan in context.store.orphans.seen() if orphan.slurm_id != slurm_id]
    context.store.orphans.keep(left)
