"""The loop that keeps records true: observe, decide, save, every two seconds while anything is live.

`longest_age` says how old squeue's answer may be; the servers of jobs are checked at each step.

It runs in every worker and works in one: the lease decides which. An error ends a step, never the loop.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from bouchet_core.batch_jobs import BatchJob
from bouchet_core.deployments import Deployment, Orphan
from bouchet_core.errors import BouchetError, StaleRecordError, StoreError, UnknownDeploymentError
from bouchet_core.figures import JobFigures
from bouchet_core.tasks import TaskName

from bouchet_worker.attach.watch import AttachedWatch
from bouchet_worker.batch.download import DOWNLOADS
from bouchet_worker.batch.image import IMAGES
from bouchet_worker.batch.watch import BatchJobWatch
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import attempt_of, update_record
from bouchet_worker.ledger.accounting import AccountingScheduler
from bouchet_worker.ledger.job_times import JobTimes
from bouchet_worker.notices.watch import NoticeWatch
from bouchet_worker.service.runner import ServiceRunner
from bouchet_worker.slurm.error_messages import explain_outage
from bouchet_worker.slurm.parsing import QueueRow

from .cleanup import CleanupScheduler, kept_until
from .decide import Decision, apply, decide
from .job_keys import KeyRecovery
from .observation import Observed, QueryFailed
from .observe import Observer, attempt_key
from .recovery import JobRecovery, LostSlots
from .smoke_runner import SmokeTestRunner
from .step_reads import AT_ONCE, CALM, LEASE_NAME, StepReader, StepStart, longest_age

log = logging.getLogger(__name__)

STEP_S = 2.0
SMOKE_POLL_S = 0.1
# the longest that one read waits for demand, and so the end of the loop for it; below the socket's timeout
DEMAND_WAIT_S = 2.0
# between two reads while Redis does not answer
UNANSWERED_S = 0.5
# a task is enqueued again after this pause, which doubles each time
RESEND_S = 4.0
RESEND_MAX_S = 60.0
# the pause while the cluster cannot be queried; short, so that work resumes soon after a reconnect
BACK_OFF_MAX_S = 10.0


@dataclass
class _SentTask:
    """When a task was enqueued (monotonic seconds), and how long to wait before enqueueing it again."""

    at: float
    wait_s: float


@dataclass
class ReconcileLoop:
    """Reconciles all live records with the cluster.

    enqueue(task, deployment id) puts a task on the queue; maintain_queue() retries failed and lost tasks.
    """

    context: WorkerContext
    observer: Observer
    enqueue: Callable[[TaskName, str], None]
    maintain_queue: Callable[[], None] = lambda: None
    smoke_tests: SmokeTestRunner | None = None
    cleanup: CleanupScheduler | None = None
    accounting: AccountingScheduler | None = None
    # figures of a job that were read a moment ago
    latest: Callable[[str], JobFigures | None] = lambda _: None
    # how old squeue's answer may be while nothing changes
    calm: timedelta = CALM
    # of squeue's last answer
    _answered_at: datetime | None = None
    _sent: dict[tuple[str, str], _SentTask] = field(default_factory=dict)
    _failures: int = 0
    # the store's epoch in which all jobs of the cluster were compared with the records
    _compared_epoch: str | None = None
    # the store may hold an outage, also one of an earlier process
    _outage_stored: bool = True

    def __post_init__(self) -> None:
        self._reader = StepReader(self.context)
        self._recovery = JobRecovery(self.context)
        self._lost_slots = LostSlots(self.context)
        self._keys = KeyRecovery(self.context)
        self._attached = AttachedWatch(self.context, self.smoke_tests)
        self._job_times = JobTimes(self.context)
        self._notices = NoticeWatch(self.context)
        self._services = ServiceRunner(self.context, self.enqueue, self.observer.probe, self.latest)
        self._batch_jobs: tuple[BatchJobWatch[Any, Any], ...] = (
            BatchJobWatch(self.context, DOWNLOADS, self.enqueue),
            BatchJobWatch(self.context, IMAGES, self.enqueue),
        )

    def run(self, stopping: threading.Event) -> None:
        """Run steps until `stopping` is set; then release the lease, so that another worker takes over at once."""
        while not stopping.is_set():
            began = time.monotonic()
            self._guarded_step()
            self._rest(stopping, max(0.05, self._pause() - (time.monotonic() - began)))
        with contextlib.suppress(StoreError):
            self.context.store.release(LEASE_NAME, self.context.owner)

    def _rest(self, stopping: threading.Event, seconds: float) -> None:
        """Wait that long, or until clients need not: a smoke test has finished, or a parked model is asked for."""
        tests, until = self.smoke_tests, time.monotonic() + seconds
        if self._services.wants_query and not self._failures:
            return
        while (left := until - time.monotonic()) > 0:
            is_testing = tests is not None and tests.is_running
            if self._services.wait_for_demand(0.0 if is_testing else min(DEMAND_WAIT_S, left)):
                return
            # a read has waited, unless it was not to, or Redis did not answer
            pause = SMOKE_POLL_S if is_testing else UNANSWERED_S if self._services.is_unanswered else 0.0
            if stopping.wait(min(pause, left)):
                return
            if tests is not None and tests.finished.is_set():
                tests.finished.clear()
                return

    def _guarded_step(self) -> None:
        try:
            self.step()
        except BouchetError as exc:
            self._failures += 1
            log.warning("reconcile: %s", exc)
        except Exception:
            # a bug must not end the loop: the records of healthy deployments have to stay true
            self._failures += 1
            log.exception("reconcile: unexpected error")

    def _pause(self) -> float:
        return float(min(STEP_S * 2 ** min(self._failures, 4), max(BACK_OFF_MAX_S, STEP_S)))

    def step(self) -> None:
        """Observe once and apply what follows. Sends nothing to the cluster while nothing is live.

        The first step, and the first after the store was emptied, queries Slurm in any case: unrecorded jobs may run.
        """
        start = self._reader.begin()
        if not start.has_lease:
            self._job_times.forget()
            return
        self.maintain_queue()
        epoch, records = start.epoch, start.records
        self.context.store.renew_targets(records, start.targets)
        self._follow(start)
        batch_jobs: list[tuple[BatchJobWatch[Any, Any], Sequence[BatchJob]]] = [
            *zip(self._batch_jobs, (start.downloads, start.images), strict=True)
        ]
        jobs = [job.name for record in records for job in record.live_jobs]
        if self.accounting is not None:
            self.accounting.run_if_due(jobs)
        if self.cleanup is not None:
            self.cleanup.run_if_due(
                [*jobs, *(one.id for one in records), *(one.id for _, live in batch_jobs for one in live)]
            )
        compare = epoch != self._compared_epoch
        if not records and not compare and not any(live for _, live in batch_jobs):
            self._failures = 0
            return
        is_urgent = compare or self._services.wants_query
        always = is_urgent or any(one.slurm_id is not None for _, live in batch_jobs for one in live)
        attempts = [attempt for record in records for attempt in record.attempts()]
        longest = AT_ONCE if is_urgent else longest_age(start, self.context.now(), self.calm)
        observed = self.observer.observe(attempts, always=always, may_reuse=self._is_younger(longest))
        rows = self._noted_rows()
        unavailable = _all_failed(attempts, observed) or (self.observer.was_asked and rows is None)
        self._failures = self._failures + 1 if unavailable else 0
        self._store_outage(observed)
        orphans = self._reconcile_all(attempts, observed)
        self._cancel_without_job(records)
        self._services.step(is_observed=rows is not None, is_calm=longest > AT_ONCE)
        for watch, live in batch_jobs:
            watch.settle(live, rows)
        if rows is not None and self._recovery.recover(rows, records, orphans):
            self._compared_epoch = epoch

    def _is_younger(self, longest: timedelta) -> bool:
        """Return whether squeue's last answer is younger. One from the future, by a clock that was set, is not."""
        known = self._answered_at
        return known is not None and timedelta(0) <= self.context.now() - known < longest

    def _noted_rows(self) -> Sequence[QueueRow] | None:
        """Return squeue's rows if it was run in this step, and note when; nothing is reused after a failure."""
        rows = self.observer.queue_rows
        if self.observer.was_asked:
            self._answered_at = None if rows is None else self.context.now()
        return rows

    def _follow(self, start: StepStart) -> None:
        """Note what became of jobs and deployments: for the ledger, and for people."""
        self._forget_ended(start.records)
        self._lost_slots.step(start.records)
        self._attached.step(start.records)
        self._job_times.step(start.records, start.load)
        self._notices.step(start.records, start.ended)

    def _cancel_without_job(self, records: Sequence[Deployment]) -> None:
        for record in records:
            if record.stop_requested_at is not None and not record.attempts():
                self._send(TaskName.CANCEL, record.id)

    def _store_outage(self, observed: Mapping[str, Observed]) -> None:
        """Store why Slurm could not be queried, for `bouchet status`, until it can be queried again."""
        details = [
            one.slurm.detail for one in observed.values() if isinstance(one.slurm, QueryFailed) and one.slurm.attempted
        ]
        if details:
            self.context.store.outage.record(explain_outage(details[0]), self.context.now())
        elif self._outage_stored:
            self.context.store.outage.clear()
        self._outage_stored = bool(details)

    def _reconcile_all(self, attempts: Sequence[Deployment], observed: Mapping[str, Observed]) -> Sequence[Orphan]:
        """Decide on all attempts, whose records are read again: observing takes time. Return the stored orphans."""
        store = self.context.store
        records, orphans = store.ask(store.live_query(), store.orphans.seen_query())
        newest: dict[str, Deployment] = {record.id: record for record in records}
        for attempt in attempts:
            new = self._reconcile(attempt, observed[attempt_key(attempt)], newest.get(attempt.id))
            if new is not None:
                newest[attempt.id] = new
        return cast("Sequence[Orphan]", orphans)

    def _reconcile(self, record: Deployment, observed: Observed, newest: Deployment | None) -> Deployment | None:
        """Decide on the newest attempt until it is saved: a slow decision never overwrites a newer change.

        newest: the whole record as it was read last. Return it as it is then, None if it no longer has the attempt.
        """
        made: list[Decision] = []

        def change(old: Deployment) -> Deployment:
            made[:] = [decide(old, observed, self.context.now())]
            return self._with_kept_until(old, apply(old, made[0], self.context.now()))

        try:
            whole = update_record(self.context, record.id, record.job_name, change, newest)
            new = attempt_of(whole, record.job_name)
        except (StaleRecordError, UnknownDeploymentError):
            return None
        if new.phase is not record.phase:
            log.info("deployment %s: %s -> %s %s", record.id, record.phase, new.phase, new.reason)
        if observed.health is not None and observed.health.wrong_server:
            self._keys.restore(record)
        if made[0].task is not None:
            self._send(made[0].task, record.id)
        return whole

    def _with_kept_until(self, old: Deployment, record: Deployment) -> Deployment:
        """Add how long the job's files are kept to an attempt that has just ended."""
        if not old.is_live or record.is_live or record.job is None:
            return record
        job = record.job.model_copy(update={"kept_until": kept_until(self.context, record.updated_at)})
        return record.model_copy(update={"jobs": (job,)})

    def _send(self, task: TaskName, deployment: str) -> None:
        key, now = (task, deployment), time.monotonic()
        sent = self._sent.get(key)
        if sent is not None and now - sent.at < sent.wait_s:
            return
        wait_s = min(sent.wait_s * 2, RESEND_MAX_S) if sent else RESEND_S
        self._sent[key] = _SentTask(now, wait_s)
        self.enqueue(task, deployment)

    def _forget_ended(self, records: Sequence[Deployment]) -> None:
        live, now = {record.id for record in records}, time.monotonic()
        names = {job.name for record in records for job in record.jobs}
        self._keys.keep_only(names)
        if self.smoke_tests is not None:
            self.smoke_tests.keep_only(names)
        self._sent = {
            key: sent for key, sent in self._sent.items() if key[1] in live and now - sent.at < 2 * RESEND_MAX_S
        }


def _all_failed(records: Sequence[Deployment], observed: Mapping[str, Observed]) -> bool:
    """Return whether the query failed for every submitted job, of which there is at least one."""
    submitted = [r for r in records if r.job is not None and r.job.slurm_id is not None]
    return bool(submitted) and all(isinstance(observed[attempt_key(r)].slurm, QueryFailed) for r in submitted)
