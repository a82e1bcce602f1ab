"""Checks all live jobs: one squeue for all of them, then only what squeue does not print. I/O, no decisions.

Where the caller allows it, squeue's last answer is used again, as long as each job that serves answers for itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from bouchet_core.deployments import Deployment, Job, Phase
from bouchet_core.errors import (
    BouchetError,
    ClusterUnavailableError,
    GatewayError,
    RemoteCommandError,
    RemoteFileMissingError,
    RemoteTimeoutError,
    SlurmOutputError,
)
from pydantic import BaseModel, ValidationError

from bouchet_worker.context import WorkerContext
from bouchet_worker.slurm.commands import QUERY_TIMEOUT_S, sacct_argv, show_job_argv
from bouchet_worker.slurm.error_messages import is_unknown_job
from bouchet_worker.slurm.parsing import (
    JobRow,
    QueueRow,
    expand_nodes,
    expected_start,
    parse_accounting,
    parse_job,
    queue_wait_s,
)
from bouchet_worker.slurm.queries import list_queue
from bouchet_worker.slurm.states import STATES, State, StateClass, parse_state

from .health import SlotProbe
from .observation import (
    AccountingBehind,
    ConnectionFile,
    EndFile,
    HealthReport,
    HealthStatus,
    JobNotFound,
    JobStatus,
    Observed,
    QueryFailed,
    QueryResult,
)
from .smoke_runner import SmokeTestRunner
from .startup import parse_engine_times, parse_progress, parse_steps

LOG_TAIL_BYTES = 16 << 10
# the whole log of a start, progress bars included
LOG_START_BYTES = 512 << 10
OBSERVER_THREADS = 8

FileModel = TypeVar("FileModel", bound=BaseModel)


def attempt_key(attempt: Deployment) -> str:
    """Return what an attempt is called among all: its job's name, else the deployment's id."""
    return attempt.job.name if attempt.job is not None else attempt.id


class Observer:
    """Checks all live deployments at once.

    queue_rows: squeue's rows of the last check, None without an answer, or where was_asked is false.
    """

    def __init__(self, context: WorkerContext, probe: SlotProbe, smoke_tests: SmokeTestRunner | None = None) -> None:
        self._context, self.probe, self._smoke_tests = context, probe, smoke_tests
        self._gateway, self._paths = context.gateway, context.paths
        self.queue_rows: Sequence[QueueRow] | None = None
        self.was_asked = False
        # by job name, of the last squeue
        self._last: Mapping[str, QueryResult] = {}
        self._waits_for_accounting: set[str] = set()
        self._pool = ThreadPoolExecutor(OBSERVER_THREADS, "observe")

    def observe(
        self, records: Sequence[Deployment], *, always: bool = False, may_reuse: bool = False
    ) -> dict[str, Observed]:
        """Return what was found about these attempts, by attempt_key. Gateway errors become QueryFailed.

        always: run squeue although no record has a job. may_reuse: its last answer will do, if all that serve are well.
        """
        submitted = {attempt_key(r): r for r in records if r.job is not None and r.job.slurm_id is not None}
        jobs = [record.job for record in submitted.values() if record.job is not None]
        healths = self._healths_of(jobs) if may_reuse and self._go_on(jobs) else None
        is_calm = healths is not None and all(one.status is HealthStatus.HEALTHY for one in healths.values())
        self.queue_rows, self.was_asked = None, not is_calm and (bool(jobs) or always)
        self._last = self._last if is_calm else self._query_slurm(jobs, always)
        details = self._pool.map(
            lambda job, record: self._observe_job(record, job, self._last[job.name], (healths or {}).get(job.name)),
            jobs,
            submitted.values(),
        )
        unknown = {attempt_key(r): Observed(QueryFailed("not submitted yet", attempted=False)) for r in records}
        return {**unknown, **dict(zip(submitted, details, strict=True))}

    def _go_on(self, jobs: Sequence[Job]) -> bool:
        """Return whether each of the jobs serves, or waits, and did so when squeue was run last."""
        classes = {Phase.READY: StateClass.RUNNING, Phase.QUEUED: StateClass.WAITING}
        found = [(classes.get(job.phase), self._last.get(job.name)) for job in jobs]
        return all(isinstance(last, JobStatus) and STATES[last.state].state_class is wanted for wanted, last in found)

    def _healths_of(self, jobs: Sequence[Job]) -> dict[str, HealthReport]:
        """Return the health of those that serve, by name of the job."""
        serving = [job for job in jobs if job.phase is Phase.READY]
        return {job.name: found for job, found in zip(serving, self._pool.map(self.probe.health, serving), strict=True)}

    def _query_slurm(self, jobs: Sequence[Job], always: bool) -> dict[str, QueryResult]:
        """Return Slurm's answer by job name."""
        if not jobs and not always:
            return {}
        try:
            rows = list_queue(self._context)
        except (GatewayError, SlurmOutputError) as exc:
            return {job.name: QueryFailed(str(exc)) for job in jobs}
        self.queue_rows = rows
        queued = {(row.job_id, row.name): row for row in rows}
        results: dict[str, QueryResult] = {}
        for job in jobs:
            row = queued.get((job.slurm_id or 0, job.name))
            if row is not None:
                results[job.name] = _from_queue(job, row)
        left = [job for job in jobs if job.name not in results]
        return {**results, **self._query_left_jobs(left)}

    def _query_left_jobs(self, jobs: Sequence[Job]) -> dict[str, QueryResult]:
        """Query jobs that squeue no longer lists: slurmctld first, then accounting for all the rest at once."""
        results: dict[str, QueryResult] = {}
        for job in jobs:
            result = self._show_job(job)
            if result is not None:
                results[job.name] = self._with_canceller(job, result)
        forgotten = [job for job in jobs if job.name not in results]
        return {**results, **self._query_accounting(forgotten)} if forgotten else results

    def _show_job(self, job: Job) -> QueryResult | None:
        """Return slurmctld's answer, None when it has forgotten the job (or uses its id for another one)."""
        try:
            text = self._gateway.run(show_job_argv(job.slurm_id or 0), timeout_s=QUERY_TIMEOUT_S).stdout
            row = parse_job(text)
            return _from_end(row) if row.name == job.name else None
        except RemoteCommandError as exc:
            return None if is_unknown_job(exc.stderr) else QueryFailed(str(exc))
        except (GatewayError, SlurmOutputError) as exc:
            return QueryFailed(str(exc))

    def _with_canceller(self, job: Job, result: QueryResult) -> QueryResult:
        """Add who cancelled a job. Only accounting knows that, and a moment later than slurmctld: wait one check."""
        if not isinstance(result, JobStatus) or result.state is not State.CANCELLED or result.cancelled_by:
            return result
        accounted = self._query_accounting([job])[job.name]
        if isinstance(accounted, JobStatus) and accounted.state is State.CANCELLED:
            return replace(accounted, run_s=result.run_s)
        if job.name in self._waits_for_accounting:
            self._waits_for_accounting.discard(job.name)
            return result
        self._waits_for_accounting.add(job.name)
        return QueryFailed("accounting does not know yet who cancelled the job", attempted=False)

    def _query_accounting(self, jobs: Sequence[Job]) -> dict[str, QueryResult]:
        try:
            argv = sacct_argv([job.slurm_id or 0 for job in jobs])
            rows = parse_accounting(self._gateway.run(argv, timeout_s=QUERY_TIMEOUT_S).stdout)
            by_job = {(row.job_id, row.name): row for row in rows}
            return {job.name: self._from_accounting(by_job.get((job.slurm_id or 0, job.name))) for job in jobs}
        except RemoteCommandError as exc:
            if "accounting storage is disabled" in exc.stderr.lower():
                return {job.name: JobNotFound() for job in jobs}
            return {job.name: QueryFailed(str(exc)) for job in jobs}
        except (GatewayError, SlurmOutputError) as exc:
            return {job.name: QueryFailed(str(exc)) for job in jobs}

    def _from_accounting(self, row: JobRow | None) -> QueryResult:
        """Return the row's result, for a cancelled job with the user who cancelled it."""
        result = _accounted(row)
        found = re.search(r"by (\d+)", row.state) if row is not None else None
        if row is None or found is None or not isinstance(result, JobStatus):
            return result
        return replace(result, cancelled_by=self._user(found.group(1), row.uid))

    def _user(self, uid: str, owner: str) -> str:
        if uid in (owner, "0"):
            return "you, with scancel" if uid == owner else "root (an administrator, or Slurm itself)"
        try:
            name = self._gateway.run(["getent", "passwd", uid], timeout_s=QUERY_TIMEOUT_S).stdout.split(":")[0]
        except GatewayError:
            name = ""
        return f"user {name} (id {uid})" if name else f"user id {uid}"

    def _observe_job(
        self, record: Deployment, job: Job, result: QueryResult, health: HealthReport | None = None
    ) -> Observed:
        """Return all about one job. health: of its server, if it was checked already."""
        try:
            return self._details(record, job, result, health)
        except (ClusterUnavailableError, RemoteTimeoutError) as exc:
            return Observed(QueryFailed(str(exc)))

    def _details(self, record: Deployment, job: Job, result: QueryResult, health: HealthReport | None) -> Observed:
        if isinstance(result, QueryFailed):
            return Observed(result)
        end_path = self._paths.end(job.slurm_id or 0)
        if isinstance(result, JobNotFound | AccountingBehind):
            health = health or (self.probe.health(job) if job.listens else None)
            return Observed(result, health=health, end_file=self._read_file(end_path, EndFile, job))
        state_class = STATES[result.state].state_class
        if state_class in (StateClass.ENDED, StateClass.ENDING):
            return Observed(result, end_file=self._read_file(end_path, EndFile, job))
        if state_class is not StateClass.RUNNING or record.phase is Phase.DRAINING:
            return Observed(result)
        if health is None and job.listens and record.phase in (Phase.STARTING, Phase.READY):
            health = self.probe.health(job)
        return self._running(record, job, result, health)

    def _running(self, record: Deployment, job: Job, status: JobStatus, health: HealthReport | None) -> Observed:
        if health is not None and health.status is not HealthStatus.FAILING:
            starting = record.phase is Phase.STARTING
            log = self._log_tail(job, LOG_START_BYTES) if starting else ""
            found = Observed(status, health=health, engine_times=parse_engine_times(log), steps=parse_steps(log))
            return self._with_smoke_test(record, job, found)
        connection = self._read_file(self._paths.connection(job.slurm_id or 0), ConnectionFile, job)
        log = "" if record.phase is Phase.READY else self._log_tail(job)
        return Observed(status, connection, health, parse_progress(log), steps=parse_steps(log))

    def _with_smoke_test(self, record: Deployment, job: Job, observed: Observed) -> Observed:
        """Attach the result of the smoke test, of which there is one per start."""
        wanted = job.smoke is None and record.stop_requested_at is None
        healthy = observed.health is not None and observed.health.status is HealthStatus.HEALTHY
        if self._smoke_tests is None or not wanted or not healthy:
            return observed
        smoke, pending = self._smoke_tests.result_of(record, job)
        return replace(observed, smoke=smoke, smoke_pending=pending)

    def _read_file(self, path: str, model: type[FileModel], job: Job) -> FileModel | None:
        """Return a file that the job wrote; None while it is missing, invalid or another job's. Files are hints."""
        try:
            found = model.model_validate_json(self._gateway.get(path).data)
        except (RemoteFileMissingError, ValidationError):
            return None
        except (ClusterUnavailableError, RemoteTimeoutError):
            raise
        except BouchetError:
            return None
        return found if getattr(found, "job_name", None) == job.name else None

    def _log_tail(self, job: Job, most: int = LOG_TAIL_BYTES) -> str:
        """Return the end of the job's log, empty while there is none."""
        try:
            piece = self._gateway.get(self._paths.log(job.slurm_id or 0), -most, most)
        except GatewayError:
            return ""
        return piece.data.decode(errors="replace")


def _from_queue(job: Job, row: QueueRow) -> QueryResult:
    try:
        state = parse_state(row.state)
    except SlurmOutputError as exc:
        return QueryFailed(str(exc))
    submitted_at = job.since.get(Phase.QUEUED) if job.asked_at is None else job.asked_at
    start = expected_start(row, submitted_at)
    runs = STATES[state].state_class is StateClass.RUNNING
    waited_s = queue_wait_s(row) if runs else None
    return JobStatus(
        state, row.state, row.reason, row.node, start, waited_s=waited_s, run_s=row.run_s, partition=row.partition
    )


def _from_end(row: JobRow) -> QueryResult:
    try:
        state = parse_state(row.state)
        nodes = expand_nodes(row.nodes) if row.nodes and not row.nodes.startswith("None") else []
    except SlurmOutputError as exc:
        return QueryFailed(str(exc))
    node = nodes[0] if nodes else None
    return JobStatus(state, row.state, row.reason, node, exit_code=row.exit_code, run_s=row.run_s)


def _accounted(row: JobRow | None) -> QueryResult:
    if row is None:
        return JobNotFound()
    result = _from_end(row)
    if isinstance(result, JobStatus) and STATES[result.state].state_class is not StateClass.ENDED:
        return AccountingBehind(row.state)
    return result
