"""The loop that keeps records true: look, decide, save, every two seconds while something lives.

Runs in every worker, works in one: the lease decides which. Errors of one step end the step, never the loop.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bouchet_core.deployments import Deployment
from bouchet_core.errors import BouchetError, StaleRecordError, StoreUnavailableError
from bouchet_core.tasks import HEARTBEAT, TaskName

from bouchet_worker.batch.download import DOWNLOADS
from bouchet_worker.batch.image import IMAGES
from bouchet_worker.batch.watch import BatchJobWatch
from bouchet_worker.context import WorkerContext
from bouchet_worker.slurm.outage import unanswered

from .cleanup import Housekeeper, kept_until
from .decide import Decision, apply, decide
from .observation import CouldNotLook, Observed
from .observe import Observer
from .recovery import Strays
from .smoke_runner import Smokes

log = logging.getLogger(__name__)

STEP_S = 2.0
LEASE_NAME = "reconcile"
LEASE_S = 10.0
HEARTBEAT_S = 15.0
SMOKE_LOOK_S = 0.1
# a task that did not help is sent again after this, and after twice as long each time
TASK_AGAIN_S = 4.0
TASK_AGAIN_MOST_S = 60.0
# how long to leave the cluster alone when it could not be asked; it is back soon after a reconnect
BACK_OFF_MOST_S = 10.0


@dataclass
class _Sent:
    """A task that was enqueued. at: monotonic seconds."""

    at: float
    wait_s: float


@dataclass
class Loop:
    """enqueue(task, deployment id) puts a task on the queue; tend() looks after those that failed."""

    context: WorkerContext
    observer: Observer
    enqueue: Callable[[TaskName, str], None]
    tend: Callable[[], None] = lambda: None
    smokes: Smokes | None = None
    housekeeper: Housekeeper | None = None
    _sent: dict[tuple[str, str], _Sent] = field(default_factory=dict)
    _failures: int = 0
    # the store's epoch in which all jobs of the cluster were compared with the records
    _compared: str | None = None
    # what could not be asked stands in the store, or may stand there from an earlier life
    _told: bool = True

    def __post_init__(self) -> None:
        self._strays = Strays(self.context)
        self._batch_jobs: tuple[BatchJobWatch[Any, Any], ...] = (
            BatchJobWatch(self.context, DOWNLOADS, self.enqueue),
            BatchJobWatch(self.context, IMAGES, self.enqueue),
        )

    def run(self, stopping: threading.Event) -> None:
        """Steps until told to stop; then another worker may take over at once."""
        while not stopping.is_set():
            began = time.monotonic()
            self._guarded_step()
            self._rest(stopping, max(0.05, self._pause() - (time.monotonic() - began)))
        with contextlib.suppress(StoreUnavailableError):
            self.context.store.release(LEASE_NAME, self.context.owner)

    def _rest(self, stopping: threading.Event, seconds: float) -> None:
        """Until then, or until a smoke test is over: somebody waits for that model."""
        until = time.monotonic() + seconds
        while self.smokes is not None and self.smokes.under_way and time.monotonic() < until:
            if stopping.wait(SMOKE_LOOK_S):
                return
        if self.smokes is not None and self.smokes.over.is_set():
            self.smokes.over.clear()
            return
        stopping.wait(max(0.0, until - time.monotonic()))

    def _guarded_step(self) -> None:
        try:
            self.beat()
            self.step()
        except BouchetError as exc:
            self._failures += 1
            log.warning("reconcile: %s", exc)
        except Exception:
            # a bug must not end the loop: the records of healthy deployments have to stay true
            self._failures += 1
            log.exception("reconcile: unexpected")

    def _pause(self) -> float:
        return float(min(STEP_S * 2 ** min(self._failures, 4), max(BACK_OFF_MOST_S, STEP_S)))

    def beat(self) -> None:
        """Says that the worker, and this container, live."""
        self.context.store.beat(HEARTBEAT, HEARTBEAT_S)
        self.context.store.beat(f"{HEARTBEAT}:{self.context.owner}", HEARTBEAT_S)

    def step(self) -> None:
        """One look and its moves. Asks nothing of the cluster while nothing lives.

        The first time, and when the store was emptied, it asks all the same: jobs may run that have no record.
        """
        if not self.context.store.lease(LEASE_NAME, self.context.owner, LEASE_S):
            return
        self.tend()
        epoch = self.context.store.orphans.epoch()
        records = self.context.store.live()
        self._forget_all_but(records)
        batch_jobs = [(watch, watch.live()) for watch in self._batch_jobs]
        if self.housekeeper is not None:
            self.housekeeper.look([one.id for one in (*records, *(one for _, live in batch_jobs for one in live))])
        compare = epoch != self._compared
        if not records and not compare and not any(live for _, live in batch_jobs):
            self._failures = 0
            return
        ask = compare or any(one.slurm_id is not None for _, live in batch_jobs for one in live)
        seen = self.observer.look(records, always=ask)
        unasked = _all_unasked(records, seen) or (ask and self.observer.rows is None)
        self._failures = self._failures + 1 if unasked else 0
        self._tell(seen)
        for record in records:
            self._settle(record, seen[record.id])
        for watch, live in batch_jobs:
            watch.settle(live, self.observer.rows)
        if self.observer.rows is not None and self._strays.settle(self.observer.rows, records):
            self._compared = epoch

    def _tell(self, seen: Mapping[str, Observed]) -> None:
        """Keeps what was not answered for people who look, until all is."""
        details = [one.slurm.detail for one in seen.values() if isinstance(one.slurm, CouldNotLook) and one.slurm.asked]
        if details:
            self.context.store.outage.lost(unanswered(details[0]), self.context.now())
        elif self._told:
            self.context.store.outage.clear()
        self._told = bool(details)

    def _settle(self, record: Deployment, observed: Observed) -> None:
        """Decides anew on the newest record until it is saved: a slow decision never overwrites a newer move."""
        made: list[Decision] = []

        def change(old: Deployment) -> Deployment:
            made[:] = [decide(old, observed, self.context.now())]
            return self._dated(old, apply(old, made[0], self.context.now()))

        try:
            new = self.context.store.update(record.id, change)
        except StaleRecordError:
            return
        if new.phase is not record.phase:
            log.info("deployment %s: %s -> %s %s", record.id, record.phase, new.phase, new.reason)
        if made[0].task is not None:
            self._send(made[0].task, record.id)

    def _dated(self, old: Deployment, record: Deployment) -> Deployment:
        """One that has just ended says how long its files are kept."""
        if not old.is_live or record.is_live or record.job is None:
            return record
        job = record.job.model_copy(update={"kept_until": kept_until(self.context, record.updated_at)})
        return record.model_copy(update={"jobs": (*record.jobs[:-1], job)})

    def _send(self, task: TaskName, deployment: str) -> None:
        key, now = (task, deployment), time.monotonic()
        sent = self._sent.get(key)
        if sent is not None and now - sent.at < sent.wait_s:
            return
        wait_s = min(sent.wait_s * 2, TASK_AGAIN_MOST_S) if sent else TASK_AGAIN_S
        self._sent[key] = _Sent(now, wait_s)
        self.enqueue(task, deployment)

    def _forget_all_but(self, records: Sequence[Deployment]) -> None:
        live = {record.id for record in records}
        if self.smokes is not None:
            self.smokes.forget_all_but([job.name for record in records for job in record.jobs])
        self._sent = {key: sent for key, sent in self._sent.items() if key[1] in live}


def _all_unasked(records: Sequence[Deployment], seen: dict[str, Observed]) -> bool:
    asked = [r for r in records if r.job is not None and r.job.slurm_id is not None]
    return bool(asked) and all(isinstance(seen[r.id].slurm, CouldNotLook) for r in asked)
