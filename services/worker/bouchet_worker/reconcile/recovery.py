"""Unrecorded jobs: Slurm jobs with our kind of name that no live record names; and slots without a record.

This installation's own ones become records again, the others are listed as orphans. A job's folder holds record.json:
the deployment when its job was submitted, and which installation submitted it. The job itself never reads it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from bouchet_core.deployments import Deployment, Job, Orphan, Phase
from bouchet_core.errors import (
    ClusterUnavailableError,
    GatewayError,
    NameTakenError,
    OrphanRefusedError,
    RecordError,
    RemoteTimeoutError,
    SlurmOutputError,
    UnknownDeploymentError,
    UnreadableRecordError,
)
from bouchet_core.store import Store
from bouchet_core.store.deployments import deployment_of

from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.job_files import JobRecordFile
from bouchet_worker.paths import RemotePaths
from bouchet_worker.slurm.parsing import QueueRow
from bouchet_worker.slurm.states import STATES, StateClass, parse_state

from .job_keys import read_record_file, read_sealed_key

log = logging.getLogger(__name__)

RECOVERED = "recovered from a Slurm job without a record"
OTHERS = "launched by another installation ({}), which may still manage it"
NO_RECORD_FILE = "its folder has no readable record.json, so its model is unknown"
# batch jobs have names and records of their own
_JOB_NAME = re.compile(r"bouchet-(?!download-)([a-z0-9]+)-[1-9]\d{0,5}", re.ASCII)

Owner = Literal["this", "another", "unknown"]


def parse_job_name(job_name: str) -> str | None:
    """Return the deployment id in the name of a job of ours, None for any other job."""
    found = _JOB_NAME.fullmatch(job_name)
    return found.group(1) if found else None


def unrecorded_jobs(rows: Sequence[QueueRow], records: Sequence[Deployment]) -> list[QueueRow]:
    """Return the jobs that have our kind of name, have not ended, and belong to none of these records.

    That includes a second job with the name of a recorded one: an sbatch that was given up got through after all.
    """
    ours = [row for row in rows if parse_job_name(row.name) and not _is_ending(row)]
    return [row for row in ours if not any(owns_job(record, row) for record in records)]


def owns_job(record: Deployment, row: QueueRow) -> bool:
    """Return whether the job is the record's; a record that waits for its Slurm id owns any job of its name."""
    return any(job.name == row.name and job.slurm_id in (None, row.job_id) for job in record.jobs)


def restored_record(file: JobRecordFile, row: QueueRow, job: Job, paths: RemotePaths, now: datetime) -> Deployment:
    """Return the record of a job in the queue. job: the file's, with its slot and key.

    The record starts as queued; the next step of the loop finds out how far the job is.
    """
    fresh: dict[str, object] = {
        "slurm_id": row.job_id,
        "phase": Phase.QUEUED,
        "asked_at": job.asked_at or file.staged_at,
        "log": paths.log(row.job_id),
        "since": {Phase.QUEUED: now},
    }
    return file.deployment.model_copy(
        update={
            "jobs": (job.model_copy(update=fresh),),
            "phase": Phase.QUEUED,
            "reason": RECOVERED,
            "stop_requested_at": None,
            "updated_at": now,
            "version": 0,
        }
    )


@dataclass
class JobRecovery:
    """Recovers unrecorded jobs. Caches each job's record.json."""

    context: WorkerContext
    _files: dict[tuple[int, str], JobRecordFile | None] = field(default_factory=dict)

    def recover(self, rows: Sequence[QueueRow], records: Sequence[Deployment], listed: Sequence[Orphan]) -> bool:
        """Create records for this installation's unrecorded jobs, and store the other ones as orphans.

        rows must be newer than records; listed: the orphans as they are stored. Returns False when the cluster did not
        answer about one of the jobs.
        """
        found = unrecorded_jobs(rows, records)
        known = {(row.job_id, row.name) for row in found}
        self._files = {key: file for key, file in self._files.items() if key in known}
        orphans, complete = [], True
        for row in found:
            try:
                orphan = self._recover(row)
            except (ClusterUnavailableError, RemoteTimeoutError) as exc:
                log.warning("unrecorded job %s (%s) could not be inspected: %s", row.job_id, row.name, exc)
                complete = False
                continue
            if orphan is not None:
                orphans.append(orphan)
        if tuple(listed) != tuple(orphans):
            self.context.store.orphans.keep(orphans)
        return complete

    def _recover(self, row: QueueRow) -> Orphan | None:
        """Return the job as an orphan, None when it has a record now."""
        file = self._record_file(row)
        try:
            known = find_record(self.context.store, parse_job_name(row.name) or "")
        except UnreadableRecordError:
            # it has a record, of another version, which keeps its names and slot
            return None
        if known is not None and known.is_live and owns_job(known, row):
            return None
        if file is None:
            return make_orphan(row, None, "unknown", NO_RECORD_FILE)
        if file.installation != self.context.installation:
            return make_orphan(row, file, "another", OTHERS.format(file.installation))
        if known is not None and known.stays and not any(job.name == row.name for job in known.jobs):
            return self._rejoin(known, file, row)
        if known is not None:
            state = known.reason or str(known.ending or known.phase)
            note = f"deployment {known.id} exists but does not list this job ({state})"
            return make_orphan(row, file, "this", note)
        try:
            record = adopt_job(self.context, file, row, file.deployment.id)
        except RecordError as exc:
            return make_orphan(row, file, "this", str(exc))
        log.warning("deployment %s: recovered from job %s (%s)", record.id, row.job_id, row.name)
        return None

    def _rejoin(self, known: Deployment, file: JobRecordFile, row: QueueRow) -> Orphan | None:
        """Add a further job to the record of a deployment that keeps several."""
        job = _adopted(self.context, file, row, known.id)
        restored = restored_record(file, row, job, self.context.paths, self.context.now())

        def change(old: Deployment) -> Deployment:
            return old.with_attempt(restored) if old.is_live and old.attempt(row.name) is None else old

        record = self.context.store.update(known.id, change)
        log.warning("deployment %s: recovered its job %s (%s)", known.id, row.job_id, row.name)
        return None if record.is_live else make_orphan(row, file, "this", f"deployment {known.id} has ended")

    def _record_file(self, row: QueueRow) -> JobRecordFile | None:
        key = (row.job_id, row.name)
        if key not in self._files:
            self._files[key] = read_record_file(self.context, row.name)
        return self._files[key]


def find_record(store: Store, deployment: str) -> Deployment | None:
    """Return the record of that id, live or ended. Raises UnreadableRecordError."""
    try:
        found = store.get(deployment)
    except UnknownDeploymentError:
        return None
    return found if found.id == deployment else None


def adopt_job(context: WorkerContext, file: JobRecordFile, row: QueueRow, deployment: str) -> Deployment:
    """Create a record with that id for the job. May be called again. Raises RecordError and gateway errors."""
    job = _adopted(context, file, row, deployment)
    record = restored_record(file, row, job, context.paths, context.now())
    return _create(context.store, record.model_copy(update={"id": deployment}))


def _adopted(context: WorkerContext, file: JobRecordFile, row: QueueRow, deployment: str) -> Job:
    """Return the job of the file with its key and a slot of that deployment."""
    job = file.deployment.job
    if job is None:
        raise OrphanRefusedError(row.job_id, "its record.json names no job")
    key = _sealed_key(context, row)
    slot = context.store.take_slot(deployment, job.name, context.slot_count)
    return job.model_copy(update={"slot": slot, "sealed_key": key})


# between two checks of the slots, and how long one may be without a record: attaching a server takes 40 s at most
SLOTS_EVERY, LOST_AFTER = timedelta(minutes=1), timedelta(minutes=5)


@dataclass
class LostSlots:
    """Frees slots that were taken for a record which never came: their worker ended in between."""

    context: WorkerContext
    _due: datetime | None = None
    # slot and owner -> since when no record of it is known
    _since: dict[tuple[int, str], datetime] = field(default_factory=dict)

    def step(self, records: Sequence[Deployment]) -> None:
        """Do so once a minute. records: all that are live. Raises store errors."""
        now = self.context.now()
        if self._due is not None and now < self._due:
            return
        self._due = now + SLOTS_EVERY
        known, store = {record.id for record in records}, self.context.store
        unknown = [one for one in store.slot_owners().items() if deployment_of(one[1]) not in known]
        self._since = {one: self._since.get(one, now) for one in unknown}
        for (slot, owner), since in list(self._since.items()):
            if now - since >= LOST_AFTER and store.release_lost_slot(slot, owner):
                log.warning("slot %d is free again: it was taken for %s, which has no record", slot, owner)


def make_orphan(row: QueueRow, file: JobRecordFile | None, owner: Owner, note: str) -> Orphan:
    """Return the job as people see it."""
    return Orphan(
        slurm_id=row.job_id,
        name=row.name,
        state=row.state,
        partition=row.partition,
        node=row.node,
        model=file.deployment.model if file else None,
        names=file.deployment.names if file else (),
        owner=owner,
        can_adopt=file is not None,
        note=note,
    )


def _sealed_key(context: WorkerContext, row: QueueRow) -> str | None:
    """Return the job's key, sealed for the record. The key is read from its 0600 file on the cluster."""
    try:
        return read_sealed_key(context, row.name)
    except (ClusterUnavailableError, RemoteTimeoutError):
        raise
    except (GatewayError, ValueError) as exc:
        raise OrphanRefusedError(row.job_id, f"its key file cannot be read ({exc})") from exc


def _create(store: Store, record: Deployment) -> Deployment:
    """Create the record under the names that are free; a taken alias is replaced by one with the deployment's id."""
    substitute = f"{record.alias[:50]}-{record.id[:12]}"
    names = record.names
    while True:
        try:
            return store.create(record.model_copy(update={"names": names}))
        except NameTakenError as exc:
            if exc.name == substitute:
                raise
            left = tuple(name for name in names if name != exc.name)
            names = (substitute, *left) if exc.name == names[0] else left


def _is_ending(row: QueueRow) -> bool:
    try:
        return STATES[parse_state(row.state)].state_class in (StateClass.ENDING, StateClass.ENDED)
    except SlurmOutputError:
        return False
