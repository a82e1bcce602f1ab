"""What people do with jobs without a record: list them, take one over, cancel one. By job id, and only ours."""

from __future__ import annotations

import logging
import uuid

from bouchet_core.deployments import Deployment, Orphan
from bouchet_core.errors import OrphanRefusedError, RemoteFileMissingError, UnknownOrphanError

from bouchet_worker.context import WorkerContext
from bouchet_worker.slurm import commands as slurm
from bouchet_worker.slurm.find_job import queue_rows

from .recovery import Strays, deployment_in, known_record, orphan_of, owns, paper_of, read_paper, strays_among, take_up

log = logging.getLogger(__name__)

SCANCEL_TIMEOUT_S = 30.0
LEASE_S = 60.0


def list_orphans(context: WorkerContext) -> tuple[Orphan, ...]:
    """A fresh look. This installation's own jobs that can be made records again are, and are not listed."""
    records = context.store.live()
    Strays(context).settle(queue_rows(context), records)
    return context.store.orphans.seen()


def adopt_orphan(context: WorkerContext, slurm_id: int) -> Deployment:
    """The record that the job has from now on. It belongs to this installation then, whoever launched it."""
    row = _stray(context, slurm_id)
    paper = read_paper(context, row.name)
    if paper is None:
        raise OrphanRefusedError(slurm_id, "its folder holds no record.json, so nothing says what it serves")
    if not context.store.lease(f"orphan:{slurm_id}", context.owner, LEASE_S):
        raise OrphanRefusedError(slurm_id, "it is being taken over already")
    try:
        if paper.installation != context.installation:
            ours = paper_of(paper.deployment, context.installation, paper.staged_at)
            context.gateway.put(context.layout.record(row.name), ours)
        identity = paper.deployment.id
        # a deployment that has ended stays ended
        identity = identity if known_record(context.store, identity) is None else uuid.uuid4().hex[:12]
        record = take_up(context, paper, row, identity)
        log.info("deployment %s: took over job %s (%s)", record.id, slurm_id, row.name)
        _forget(context, slurm_id)
        return record
    finally:
        context.store.release(f"orphan:{slurm_id}", context.owner)


def cancel_orphan(context: WorkerContext, slurm_id: int) -> Orphan:
    """Ends the job, whose name is ours and whose folder with its spec is there. What was known of it."""
    row = _stray(context, slurm_id)
    seen = next((orphan for orphan in context.store.orphans.seen() if orphan.slurm_id == slurm_id), None)
    if not _has_folder(context, row.name):
        raise OrphanRefusedError(slurm_id, f"its name is like ours, but it has no folder; `scancel {slurm_id}` ends it")
    context.gateway.run(slurm.scancel_argv(slurm_id), timeout_s=SCANCEL_TIMEOUT_S)
    log.info("job %s (%s), without a record: cancelled", slurm_id, row.name)
    _forget(context, slurm_id)
    return seen or orphan_of(row, None, "unknown", "")


def _stray(context: WorkerContext, slurm_id: int) -> slurm.QueueRow:
    """That job, if no live record speaks of it."""
    rows = [row for row in queue_rows(context) if row.job_id == slurm_id and deployment_in(row.name)]
    records = context.store.live()
    if not rows or not strays_among(rows, []):
        raise UnknownOrphanError(slurm_id)
    if not strays_among(rows, records):
        owner = next(record for record in records if owns(record, rows[0]))
        raise OrphanRefusedError(slurm_id, f"it belongs to deployment {owner.id}; `bouchet cancel {owner.id}` ends it")
    return rows[0]


def _has_folder(context: WorkerContext, job_name: str) -> bool:
    try:
        context.gateway.get(f"{context.layout.job(job_name)}/spec.json", max_bytes=1)
    except RemoteFileMissingError:
        return False
    return True


def _forget(context: WorkerContext, slurm_id: int) -> None:
    """The list is right at once, not only after the next look."""
    left = [orphan for orphan in context.store.orphans.seen() if orphan.slurm_id != slurm_id]
    context.store.orphans.keep(left)
