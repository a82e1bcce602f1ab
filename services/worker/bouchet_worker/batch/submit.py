"""Batch jobs (downloads, image builds): what a type of them defines, and the tasks that submit and cancel one.

There is one job for a subject: a job that does the same is adopted, whoever submitted it.
slurm/submission.py has the order of steps.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Generic, Literal, TypeVar

from bouchet_core.batch_jobs import BatchJob, BatchJobState, is_batch_job_name
from bouchet_core.config.site import Site
from bouchet_core.deployments import Placement
from bouchet_core.errors import BouchetError, LaunchRefusedError, RemoteFileMissingError
from bouchet_core.store import BatchJobStore, Store
from bouchet_core.tasks import TaskName
from bouchet_core.values import FrozenModel
from pydantic import ConfigDict

from bouchet_worker.context import WorkerContext
from bouchet_worker.paths import BATCH_SCRIPT
from bouchet_worker.scripts import run_script_text, stage_scripts
from bouchet_worker.slurm.commands import SBATCH_TIMEOUT_S, sbatch_argv
from bouchet_worker.slurm.parsing import QueueRow
from bouchet_worker.slurm.queries import JobRef
from bouchet_worker.slurm.submission import BEING_CANCELLED, FoundJob, JobSubmission

log = logging.getLogger(__name__)


class ProgressStep(FrozenModel):
    """A step of the job. at: seconds since 1970."""

    name: str
    at: float


class BatchProgress(FrozenModel):
    """progress.json, which every batch job writes. Newer scripts may add fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    job_name: str
    state: Literal["running", "done", "failed", "stopped"]
    # of the error, where it failed
    kind: str = ""
    step: str = ""
    steps: tuple[ProgressStep, ...] = ()
    sentence: str = ""
    # seconds since 1970
    at: float = 0.0


BatchJobT = TypeVar("BatchJobT", bound=BatchJob)
ProgressT = TypeVar("ProgressT", bound=BatchProgress)


class BatchJobType(ABC, Generic[BatchJobT, ProgressT]):
    """One type of batch job. Methods are pure, except `files`, which may read local files."""

    # in logs and leases
    noun: ClassVar[str]
    # of the job scripts: run in the job, or with `detach` on the login node
    program: ClassVar[str]
    submit_task: ClassVar[TaskName]
    cancel_task: ClassVar[TaskName]
    # sent after the end of a job
    follow_up_task: ClassVar[TaskName | None] = None
    progress_model: type[ProgressT]
    # fields of the record and of spec.json that jobs of the same name may differ in
    options: ClassVar[tuple[str, ...]]

    @abstractmethod
    def records(self, store: Store) -> BatchJobStore[BatchJobT]:
        """Return the records of this type."""

    @abstractmethod
    def job_name_stem(self, record: BatchJobT) -> str:
        """Return the job's name without the record's id; jobs with the same stem work on the same subject."""

    @abstractmethod
    def files(self, record: BatchJobT, context: WorkerContext) -> Mapping[str, bytes]:
        """Return the files of the job's folder by name. Raises ConfigurationError and LaunchRefusedError."""

    @abstractmethod
    def placement(self, record: BatchJobT, site: Site) -> Placement:
        """Return the resources to request. Raises LaunchRefusedError where the site has no partition for it."""

    @abstractmethod
    def runs_on_login_node(self, record: BatchJobT, site: Site) -> bool:
        """Return whether the program runs on the login node instead of in a Slurm job."""

    @abstractmethod
    def progress_fields(self, progress: ProgressT) -> Mapping[str, object]:
        """Return the fields of the record that the job's progress updates."""

    def queued_fields(self) -> Mapping[str, object]:
        """Return the fields of the record while the job waits in the queue."""
        return {}

    @abstractmethod
    def interrupted_advice(self, record: BatchJobT) -> str:
        """Return what to do after a job ended before it was done."""

    @abstractmethod
    def cancelled_message(self, record: BatchJobT) -> str:
        """Return the reason of a record that the user cancelled."""

    def add_hint(self, context: WorkerContext, record: BatchJobT, progress: ProgressT) -> ProgressT:
        """Return the progress with what only the worker knows about a failure."""
        return progress

    def job_name(self, record: BatchJobT) -> str:
        """Return the job's name."""
        return self.job_name_stem(record) + record.id


class BatchSubmission(JobSubmission[BatchJobT], Generic[BatchJobT, ProgressT]):
    """Submits or cancels one batch job."""

    def __init__(self, context: WorkerContext, job_type: BatchJobType[BatchJobT, ProgressT], identity: str) -> None:
        super().__init__(context, identity)
        self.job_type, self.noun = job_type, job_type.noun
        self._records = job_type.records(context.store)

    def load(self) -> BatchJobT:
        """Return the newest version of the record."""
        return self._records.get(self.identity)

    def wants_job(self, record: BatchJobT) -> bool:
        """Return whether it is live, not submitted and not cancelled."""
        return record.is_live and record.slurm_id is None and record.stop_requested_at is None

    def lease_name(self, record: BatchJobT) -> str:
        """Return the lease of the record's subject."""
        return f"{self.noun}:{record.subject}"

    def job_ref(self, record: BatchJobT) -> JobRef:
        """Return name, id and submission time of its job."""
        return JobRef(record.job_name, record.slurm_id, record.asked_at)

    def find(self, record: BatchJobT, rows: Sequence[QueueRow]) -> FoundJob | None:
        """Return the record's own job, or a queued one that does the same and whose record is lost.

        Raises LaunchRefusedError where a queued job works on the same subject in another way.
        """
        own = super().find(record, rows)
        stem = self.job_type.job_name_stem(record)
        other = next((FoundJob(row.job_id, row.name) for row in rows if is_batch_job_name(row.name, stem)), None)
        if own is not None or other is None or self._does_the_same(record, other):
            return own or other
        if record.stop_requested_at is not None:
            return None
        raise LaunchRefusedError(
            f"job {other.slurm_id} ({other.name}) works on {record.subject} with other options "
            f"({', '.join(self.job_type.options)}): wait for it, or end it with `scancel {other.slurm_id}`"
        )

    def _does_the_same(self, record: BatchJobT, job: FoundJob) -> bool:
        """Return whether the spec.json of that job has the options of the record."""
        try:
            spec = json.loads(self.context.gateway.get(f"{self.context.paths.job(job.name)}/spec.json").data)
            return all(spec.get(option) == getattr(record, option) for option in self.job_type.options)
        except (RemoteFileMissingError, ValueError, AttributeError):
            return False

    # steps

    def prepare(self, record: BatchJobT) -> BatchJobT:
        """Store the job's name."""
        return self._change(job_name=self.job_type.job_name(record))

    def stage(self, record: BatchJobT) -> BatchJobT:
        """Upload the job's files, after a check that the site has a partition for it."""
        self.job_type.placement(record, self.context.site)
        self._upload(record)
        return record

    def sbatch_command(self, record: BatchJobT) -> list[str]:
        """Return `sbatch ... batch.sbatch PROGRAM JOB_DIR SCRIPTS_DIR`."""
        paths, scripts = self.context.paths, self.context.scripts_dir
        placement = self.job_type.placement(record, self.context.site)
        arguments = [self.job_type.program, paths.job(record.job_name), scripts]
        return sbatch_argv(placement, record.job_name, paths.log("%j"), f"{scripts}/{BATCH_SCRIPT}", arguments)

    def start_without_slurm(self, record: BatchJobT) -> str | None:
        """Start the program on the login node, detached. A second start finds the first one running and ends."""
        if not self.job_type.runs_on_login_node(record, self.context.site):
            return None
        record = self.prepare(record)
        self._upload(record)
        paths = self.context.paths
        job_dir, log_file = paths.job(record.job_name), paths.log(record.job_name)
        arguments = ("detach", job_dir, self.context.scripts_dir, log_file)
        text = run_script_text(self.context, self.job_type.program, *arguments, timeout_s=SBATCH_TIMEOUT_S)
        reason = record.reason or "starting on the login node"
        self._change(asked_at=self.context.now(), log=log_file, reason=reason)
        log.info("%s %s: on the login node: %s", self.noun, self.identity, text.strip())
        return text.strip()

    def cancel_without_slurm(self, record: BatchJobT) -> str | None:
        """Leave a file `stop` for the program on the login node."""
        on_login_node = self.job_type.runs_on_login_node(record, self.context.site)
        if not on_login_node or record.asked_at is None:
            return None
        self.context.gateway.put(f"{self.context.paths.job(record.job_name)}/stop", b"")
        self.record_cancelling()
        return "stop requested on the login node"

    def _upload(self, record: BatchJobT) -> None:
        stage_scripts(self.context)
        folder, files = self.context.paths.job(record.job_name), self.job_type.files(record, self.context)
        self.context.gateway.put_all({f"{folder}/{name}": content for name, content in files.items()})

    # changes of the record

    def record_submission(self, argv: Sequence[str]) -> BatchJobT:
        """Store the time of the submission."""
        now = self.context.now()
        return self._update(lambda old: old.changed(now, asked_at=now) if self.wants_job(old) else old)

    def record_job_id(self, job: FoundJob) -> BatchJobT:
        """Store the Slurm id, and the name: an adopted job has that of another record."""
        log_file = self.context.paths.log(job.slurm_id)
        return self._change(slurm_id=job.slurm_id, job_name=job.name, log=log_file, reason="submitted")

    def set_reason(self, reason: str) -> None:
        """Store why it does not advance."""
        self._change(reason=reason)

    def end_failed(self, error: Exception) -> None:
        """End the record as failed, with the error's kind."""
        kind = error.kind if isinstance(error, BouchetError) else ""
        self._end(BatchJobState.FAILED, str(error), kind)

    def request_cancel(self) -> BatchJobT:
        """Store when the cancellation was requested."""
        return self._update(lambda old: old.asked_to_stop(self.context.now()))

    def record_cancelling(self) -> None:
        """Store that the job was asked to end."""
        self._change(reason=BEING_CANCELLED)

    def end_cancelled(self, reason: str) -> None:
        """End the record as cancelled."""
        self._end(BatchJobState.CANCELLED, reason)

    def _end(self, state: BatchJobState, reason: str, kind: str = "") -> None:
        log.info("%s %s: %s: %s", self.noun, self.identity, state, reason)
        now = self.context.now()
        self._update(lambda old: old.ended(now, state, reason, kind) if old.is_live else old)

    def _change(self, **fields: object) -> BatchJobT:
        return self._update(lambda old: old.changed(self.context.now(), **fields) if old.is_live else old)

    def _update(self, change: Callable[[BatchJobT], BatchJobT]) -> BatchJobT:
        return self._records.update(self.identity, change)
