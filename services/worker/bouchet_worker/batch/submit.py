"""The tasks that start and stop a batch job (a download, an image build). Every step may be the last one before a crash.

One job a subject: sbatch is called only under the subject's lease, never while a job that does the same is there (it is
adopted, whoever submitted it) or may still arrive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from bouchet_core.batch_jobs import BatchJob, BatchJobState, is_batch_job_name
from bouchet_core.config.site import Site
from bouchet_core.deployments import Job, Placement
from bouchet_core.errors import (
    ClusterUnavailableError,
    ConfigurationError,
    GatewayError,
    LaunchRefusedError,
    NotAllowedError,
    RecordError,
    RemoteCommandError,
    RemoteFileError,
    SlurmOutputError,
)
from bouchet_core.store import BatchJobStore, Store
from bouchet_core.tasks import TaskName
from bouchet_core.values import FrozenModel
from pydantic import ConfigDict

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import stage_scripts
from bouchet_worker.slurm import commands as slurm
from bouchet_worker.slurm.find_job import find_job, may_still_arrive, queue_rows
from bouchet_worker.slurm.outage import unanswered
from bouchet_worker.slurm.submit_errors import refusal_in_words

log = logging.getLogger(__name__)

LEASE_S = 90.0
SBATCH_TIMEOUT_S = 30.0
# of the job scripts: `batch.sbatch PROGRAM JOB_DIR SCRIPTS_DIR`
BATCH_SCRIPT = "batch.sbatch"
_HOPELESS = (LaunchRefusedError, ConfigurationError, NotAllowedError, RemoteFileError)


class Progress(FrozenModel):
    """progress.json, as every batch job's job writes it. Newer scripts may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    job_name: str
    state: Literal["running", "done", "failed", "stopped"]
    kind: str = ""
    step: str = ""
    sentence: str = ""
    at: float = 0.0


AnyBatchJob = TypeVar("AnyBatchJob", bound=BatchJob)
AnyProgress = TypeVar("AnyProgress", bound=Progress)


@dataclass(frozen=True)
class Kind(Generic[AnyBatchJob, AnyProgress]):
    """What one kind of batch job has of its own.

    word: in logs and leases. stem: the job's name but for the record's id. program: of the job scripts; it is asked to
    `detach` where the batch job needs no job. start, stop: names of tasks, and when: the one after the end.
    counts: the fields of the record that the job's progress fills; idle: those while it waits.
    cut_short, cancelled: what people are told of such an end. hint: what we know better than the job.
    """

    word: str
    records: Callable[[Store], BatchJobStore[AnyBatchJob]]
    stem: Callable[[AnyBatchJob], str]
    files: Callable[[AnyBatchJob, WorkerContext], Mapping[str, bytes]]
    placement: Callable[[AnyBatchJob, Site], Placement]
    on_login: Callable[[AnyBatchJob, Site], bool]
    program: str
    start: TaskName
    stop: TaskName
    progress: type[AnyProgress]
    counts: Callable[[AnyProgress], Mapping[str, object]]
    cut_short: Callable[[AnyBatchJob], str]
    cancelled: Callable[[AnyBatchJob], str]
    idle: Mapping[str, object] = field(default_factory=dict)
    hint: Callable[[WorkerContext, AnyBatchJob, AnyProgress], AnyProgress] = lambda _context, _record, progress: (
        progress
    )
    after: TaskName | None = None

    def job_name(self, record: AnyBatchJob) -> str:
        """Says what it does, so that a job is found again by whoever wants the same."""
        return self.stem(record) + record.id


def start(context: WorkerContext, kind: Kind[AnyBatchJob, AnyProgress], identity: str) -> str:
    """Submits the job, or adopts the one that is there. Says in a word what came of it."""
    records = kind.records(context.store)
    try:
        record = records.get(identity)
    except RecordError:
        return f"no such {kind.word}"
    lease = f"{kind.word}:{record.subject}"
    if not _is_wanted(record) or not context.store.lease(lease, context.owner, LEASE_S):
        return "nothing to do"
    try:
        return _start(context, kind, records.get(identity))
    except _HOPELESS as exc:
        _end(context, kind, identity, BatchJobState.FAILED, str(exc), exc.kind)
        return "failed"
    except (GatewayError, SlurmOutputError) as exc:
        waits = "waits for the SSH connection" if isinstance(exc, ClusterUnavailableError) else "will be tried again"
        log.warning("%s %s: %s: %s", kind.word, identity, waits, exc)
        _note(context, kind, identity, f"{waits}: {unanswered(str(exc))}")
        return "later"
    finally:
        context.store.release(lease, context.owner)


def stop(context: WorkerContext, kind: Kind[AnyBatchJob, AnyProgress], identity: str) -> str:
    """Ends the job by its id. The record ends when the job has."""
    record = kind.records(context.store).update(identity, lambda old: old.asked_to_stop(context.now()))
    if not record.is_live:
        return "has ended"
    try:
        return _stop(context, kind, record)
    except (GatewayError, SlurmOutputError) as exc:
        _note(context, kind, identity, f"being cancelled, as soon as the cluster can be asked: {unanswered(str(exc))}")
        return "later"


def _is_wanted(record: BatchJob) -> bool:
    return record.is_live and record.slurm_id is None and record.stop_requested_at is None


def _start(context: WorkerContext, kind: Kind[AnyBatchJob, AnyProgress], record: AnyBatchJob) -> str:
    if not _is_wanted(record):
        return "nothing to do"
    name = kind.job_name(record)
    record = kind.records(context.store).update(record.id, lambda old: old.changed(context.now(), job_name=name))
    if kind.on_login(record, context.site):
        return _start_on_login_node(context, kind, record)
    rows = queue_rows(context)
    there = _job_there(context, kind, record, rows)
    if there is None and may_still_arrive(context, _as_job(record)):
        _note(context, kind, record.id, "sbatch has not answered; looking whether the job arrived")
        return "later"
    if there is None:
        kind.placement(record, context.site)
        _stage(context, kind, record)
        there = _sbatch(context, kind, record)
    _take(context, kind, record.id, *there)
    log.info("%s %s: Slurm job %s (%s)", kind.word, record.id, *there)
    return f"job {there[0]}"


def _job_there(
    context: WorkerContext, kind: Kind[AnyBatchJob, AnyProgress], record: AnyBatchJob, rows: Sequence[slurm.QueueRow]
) -> tuple[int, str] | None:
    """Id and name of a job that does the same: this record's, or one whose record is lost."""
    own = find_job(context, _as_job(record), rows)
    if own is not None:
        return own, record.job_name
    stem = kind.stem(record)
    return next(((row.job_id, row.name) for row in rows if is_batch_job_name(row.name, stem)), None)


def _stage(context: WorkerContext, kind: Kind[AnyBatchJob, AnyProgress], record: AnyBatchJob) -> None:
    stage_scripts(context)
    folder = context.layout.job(record.job_name)
    context.gateway.put_all({f"{folder}/{name}": content for name, content in kind.files(record, context).items()})


def _sbatch(context: WorkerContext, kind: Kind[AnyBatchJob, AnyProgress], record: AnyBatchJob) -> tuple[int, str]:
    kind.records(context.store).update(record.id, lambda old: old.changed(context.now(), asked_at=context.now()))
    job_dir, folder = context.layout.job(record.job_name), context.layout.scripts(context.scripts.digest)
    placement = kind.placement(record, context.site)
    script, arguments = f"{folder}/{BATCH_SCRIPT}", [kind.program, job_dir, folder]
    argv = slurm.sbatch_argv(placement, record.job_name, context.layout.log("%j"), script, arguments)
    try:
        return slurm.parse_job_id(context.gateway.run(argv, timeout_s=SBATCH_TIMEOUT_S).stdout), record.job_name
    except RemoteCommandError as exc:
        if slurm.may_have_submitted(exc.stderr) or slurm.is_busy(exc.stderr):
            raise
        raise LaunchRefusedError(refusal_in_words(exc.stderr)) from exc


def _start_on_login_node(context: WorkerContext, kind: Kind[AnyBatchJob, AnyProgress], record: AnyBatchJob) -> str:
    """Beside the SSH session. Starting it twice does no harm: the second one sees the first."""
    _stage(context, kind, record)
    job_dir, folder = context.layout.job(record.job_name), context.layout.scripts(context.scripts.digest)
    log_file = context.layout.log(record.job_name)
    argv = ["python3", f"{folder}/{kind.program}", "detach", job_dir, folder, log_file]
    said = context.gateway.run(argv, timeout_s=SBATCH_TIMEOUT_S).stdout.strip()
    reason = "starting on the login node"

    def change(old: AnyBatchJob) -> AnyBatchJob:
        return old.changed(context.now(), asked_at=context.now(), log=log_file, reason=old.reason or reason)

    kind.records(context.store).update(record.id, change)
    log.info("%s %s: on the login node: %s", kind.word, record.id, said)
    return said


def _stop(context: WorkerContext, kind: Kind[AnyBatchJob, AnyProgress], record: AnyBatchJob) -> str:
    if kind.on_login(record, context.site) and record.asked_at is not None:
        context.gateway.put(f"{context.layout.job(record.job_name)}/stop", b"")
        _note(context, kind, record.id, "being cancelled")
        return "told to stop"
    rows = queue_rows(context)
    there = (record.slurm_id, record.job_name) if record.slurm_id else _job_there(context, kind, record, rows)
    if there is None:
        if may_still_arrive(context, _as_job(record)):
            return "later"
        _end(context, kind, record.id, BatchJobState.CANCELLED, "cancelled before it was submitted")
        return "cancelled before it was submitted"
    if any((row.job_id, row.name) == there for row in rows):
        context.gateway.run(slurm.scancel_argv(there[0]), timeout_s=SBATCH_TIMEOUT_S)
        log.info("%s %s: scancel %s", kind.word, record.id, there[0])
    if record.slurm_id is None:
        _take(context, kind, record.id, *there)
    _note(context, kind, record.id, "being cancelled")
    return f"cancelled job {there[0]}"


# records


def _as_job(record: BatchJob) -> Job:
    """The record as the finders of jobs know jobs; it has no slot."""
    fields = {"name": record.job_name, "slot": -1, "slurm_id": record.slurm_id, "asked_at": record.asked_at}
    return Job.model_validate(fields)


def _take(context: WorkerContext, kind: Kind[AnyBatchJob, AnyProgress], identity: str, job_id: int, name: str) -> None:
    def change(old: AnyBatchJob) -> AnyBatchJob:
        log_file = context.layout.log(job_id)
        return old.changed(context.now(), slurm_id=job_id, job_name=name, log=log_file, reason="submitted")

    kind.records(context.store).update(identity, change)


def _note(context: WorkerContext, kind: Kind[AnyBatchJob, AnyProgress], identity: str, reason: str) -> None:
    kind.records(context.store).update(
        identity, lambda old: old.changed(context.now(), reason=reason) if old.is_live else old
    )


def _end(
    context: WorkerContext,
    kind: Kind[AnyBatchJob, AnyProgress],
    identity: str,
    state: BatchJobState,
    reason: str,
    word: str = "",
) -> None:
    log.info("%s %s: %s: %s", kind.word, identity, state, reason)
    kind.records(context.store).update(
        identity, lambda old: old.ended(context.now(), state, reason, word) if old.is_live else old
    )
