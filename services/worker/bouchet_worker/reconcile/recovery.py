"""Jobs on the cluster that no live record speaks of: ours become records again, the others are shown to people.

A job's folder holds record.json, the deployment as it was when its job was submitted, and which installation did so.
The job itself never reads it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
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
)
from bouchet_core.secrets import sealed_key
from bouchet_core.store import Store
from pydantic import BaseModel, ConfigDict, ValidationError

from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.job_files import Layout
from bouchet_worker.slurm.commands import QueueRow
from bouchet_worker.slurm.states import STATES, Meaning, parse_state

log = logging.getLogger(__name__)

FOUND_AGAIN = "found again on the cluster"
# downloads have names and records of their own
_JOB_NAME = re.compile(r"bouchet-(?!download-)([a-z0-9]+)-[1-9]\d{0,5}", re.ASCII)
_KEY_BYTES = 200

Owner = Literal["this", "another", "unknown"]


class Paper(BaseModel):
    """record.json. deployment: as it was before sbatch, so its last job has no Slurm id."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    installation: str
    staged_at: datetime
    deployment: Deployment


def paper_of(record: Deployment, installation: str, now: datetime) -> bytes:
    """What record.json says of a job about to be submitted."""
    return Paper(installation=installation, staged_at=now, deployment=record).model_dump_json(indent=1).encode()


def deployment_in(job_name: str) -> str | None:
    """The deployment that a job of ours names, None for any other job."""
    found = _JOB_NAME.fullmatch(job_name)
    return found.group(1) if found else None


def strays_among(rows: Sequence[QueueRow], records: Sequence[Deployment]) -> list[QueueRow]:
    """The jobs that have our kind of name, have not ended, and belong to none of these records.

    A second job of a name that a record has is one of them: an sbatch that nobody believed in any more came through.
    """
    ours = [row for row in rows if deployment_in(row.name) and not _is_ending(row)]
    return [row for row in ours if not any(owns(record, row) for record in records)]


def owns(record: Deployment, row: QueueRow) -> bool:
    """Whether the job is one of that record's; one that waits for its Slurm id takes any of its name."""
    return any(job.name == row.name and job.slurm_id in (None, row.job_id) for job in record.jobs)


def record_again(paper: Paper, row: QueueRow, job: Job, layout: Layout, now: datetime) -> Deployment:
    """The record of a job that runs; job: of the paper, with its slot and key. The next look says how far it is."""
    fresh: dict[str, object] = {
        "slurm_id": row.job_id,
        "phase": Phase.QUEUED,
        "asked_at": job.asked_at or paper.staged_at,
        "log": layout.log(row.job_id),
        "since": {Phase.QUEUED: now},
    }
    return paper.deployment.model_copy(
        update={
            "jobs": (job.model_copy(update=fresh),),
            "phase": Phase.QUEUED,
            "reason": FOUND_AGAIN,
            "stop_requested_at": None,
            "updated_at": now,
            "version": 0,
        }
    )


@dataclass
class Strays:
    """What the folders of strays say is read once a job and remembered."""

    context: WorkerContext
    _papers: dict[tuple[int, str], Paper | None] = field(default_factory=dict)

    def settle(self, rows: Sequence[QueueRow], records: Sequence[Deployment]) -> bool:
        """Makes records of this installation's jobs that have none, and keeps the rest in the store for people.

        rows must be newer than records. False: the cluster could not be asked about one of them.
        """
        found = strays_among(rows, records)
        known = {(row.job_id, row.name) for row in found}
        self._papers = {key: paper for key, paper in self._papers.items() if key in known}
        orphans, whole = [], True
        for row in found:
            try:
                orphan = self._settle(row)
            except (ClusterUnavailableError, RemoteTimeoutError) as exc:
                log.warning("job %s (%s) has no record and could not be looked at: %s", row.job_id, row.name, exc)
                whole = False
                continue
            if orphan is not None:
                orphans.append(orphan)
        if self.context.store.orphans.seen() != tuple(orphans):
            self.context.store.orphans.keep(orphans)
        return whole

    def _settle(self, row: QueueRow) -> Orphan | None:
        paper = self._paper(row)
        known = known_record(self.context.store, deployment_in(row.name) or "")
        if known is not None and known.is_live and owns(known, row):
            return None
        if paper is None:
            return orphan_of(row, None, "unknown", "its folder holds no record.json, so nothing says what it serves")
        if paper.installation != self.context.installation:
            return orphan_of(row, paper, "another", "launched by another installation, which may still look after it")
        if known is not None:
            said = known.reason or str(known.ending or known.phase)
            return orphan_of(row, paper, "this", f"its deployment {known.id} is on record without it: {said}")
        try:
            record = take_up(self.context, paper, row, paper.deployment.id)
        except RecordError as exc:
            return orphan_of(row, paper, "this", str(exc))
        log.warning("deployment %s: made again from job %s (%s)", record.id, row.job_id, row.name)
        return None

    def _paper(self, row: QueueRow) -> Paper | None:
        key = (row.job_id, row.name)
        if key not in self._papers:
            self._papers[key] = read_paper(self.context, row.name)
        return self._papers[key]


def read_paper(context: WorkerContext, job_name: str) -> Paper | None:
    """What lies beside the job; None where nothing does that can be read. Raises ClusterUnavailableError and RemoteTimeoutError."""
    try:
        paper = Paper.model_validate_json(context.gateway.get(context.layout.record(job_name)).data)
    except (ClusterUnavailableError, RemoteTimeoutError):
        raise
    except (GatewayError, ValidationError):
        return None
    job = paper.deployment.job
    return paper if job is not None and job.name == job_name else None


def known_record(store: Store, deployment: str) -> Deployment | None:
    """The record of that id, ended or not."""
    try:
        found = store.get(deployment)
    except UnknownDeploymentError:
        return None
    return found if found.id == deployment else None


def take_up(context: WorkerContext, paper: Paper, row: QueueRow, identity: str) -> Deployment:
    """A new record `identity` for that job. May be called again. Raises RecordError and what the gateway raises."""
    job = paper.deployment.job
    if job is None:
        raise OrphanRefusedError(row.job_id, "its record.json names no job")
    seal = _seal(context, row)
    slot = context.store.take_slot(identity, context.slot_count)
    job = job.model_copy(update={"slot": slot, "sealed_key": seal})
    record = record_again(paper, row, job, context.layout, context.now())
    return _create(context.store, record.model_copy(update={"id": identity}))


def orphan_of(row: QueueRow, paper: Paper | None, owner: Owner, note: str) -> Orphan:
    """The job as people see it."""
    return Orphan(
        slurm_id=row.job_id,
        name=row.name,
        state=row.state,
        partition=row.partition,
        node=row.node,
        model=paper.deployment.model if paper else None,
        names=paper.deployment.names if paper else (),
        owner=owner,
        can_adopt=paper is not None,
        note=note,
    )


def _seal(context: WorkerContext, row: QueueRow) -> str | None:
    """What the record must hold so that the job's key can be had: read from its 0600 file on the cluster."""
    try:
        key = context.gateway.get(f"{context.layout.job(row.name)}/key", max_bytes=_KEY_BYTES).data
        return sealed_key(context.serving_secret, row.name, key.decode("ascii", "replace").strip())
    except (ClusterUnavailableError, RemoteTimeoutError):
        raise
    except (GatewayError, ValueError) as exc:
        raise OrphanRefusedError(row.job_id, f"its key cannot be read ({exc}), so nothing could talk to it") from exc


def _create(store: Store, record: Deployment) -> Deployment:
    """Under the names that are free; a taken alias gives way to one with the deployment's id."""
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
        return STATES[parse_state(row.state)].meaning in (Meaning.ENDING, Meaning.ENDED)
    except SlurmOutputError:
        return False
