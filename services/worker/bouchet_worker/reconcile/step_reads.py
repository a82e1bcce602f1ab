"""What a step of the reconcile loop reads at its beginning, in one round trip where nothing has appeared or ended.

And what follows for Slurm: all users of a cluster share its slurmctld, so squeue is run often only while its answer
may change something, or while a person waits for that. The jobs that serve are checked at every step all the same,
through their slots: a job that ends, for whatever reason, stops to answer there, and squeue is run in the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bouchet_core.batch_jobs import BatchJob
from bouchet_core.deployments import Deployment, Phase
from bouchet_core.notices import NOTICE_AGE
from bouchet_core.store.load import LoadReport
from bouchet_core.tasks import HEARTBEAT

from bouchet_worker.context import WorkerContext

LEASE_NAME = "reconcile"
LEASE_S = 10.0
HEARTBEAT_S = 15.0
# how old squeue's last answer may be: none is used again, or one while all is calm
AT_ONCE, CALM = timedelta(0), timedelta(seconds=10)
# a job that has waited, or a batch job that has run, for so long goes on with it
SETTLED = timedelta(minutes=2)


@dataclass(frozen=True)
class StepStart:
    """The store at the beginning of a step. has_lease: whether this worker is the one that reconciles."""

    has_lease: bool
    epoch: str
    records: Sequence[Deployment]
    # where slots lead, as the store has it
    targets: Mapping[str, str]
    downloads: Sequence[BatchJob]
    images: Sequence[BatchJob]
    load: LoadReport | None
    # deployments that ended within NOTICE_AGE
    ended: Sequence[Deployment]
    # whether a page is open, or a person waits for a change
    is_awaited: bool


@dataclass
class StepReader:
    """Renews heartbeats and lease, and reads. Methods raise StoreError."""

    context: WorkerContext
    # what has ended does not change, and is read once
    _ended: dict[str, Deployment] = field(default_factory=dict)

    def begin(self) -> StepStart:
        """Renew the heartbeats of the worker service and of this container, take the lease, and read."""
        store, owner = self.context.store, self.context.owner
        _, _, has_lease, epoch, records, targets, downloads, images, load, ended, is_awaited = store.ask(
            store.beat_query(HEARTBEAT, HEARTBEAT_S),
            store.beat_query(f"{HEARTBEAT}:{owner}", HEARTBEAT_S),
            store.lease_query(LEASE_NAME, owner, LEASE_S),
            store.orphans.epoch_query(),
            store.live_query(),
            store.targets_query(),
            store.downloads.live_query(),
            store.images.live_query(),
            store.load.current_query(),
            store.ended_query(self.context.now() - NOTICE_AGE),
            store.live_view.awaited_query(),
        )
        if self.context.heartbeat_file is not None:
            self.context.heartbeat_file.touch()
        ended = self._load_ended(ended, records)
        return StepStart(has_lease, epoch, records, targets, downloads, images, load, ended, is_awaited)

    def _load_ended(self, ids: Sequence[str], live: Sequence[Deployment]) -> list[Deployment]:
        """Return the ended ones, the last to end first. One that was recovered since is read again when it ends."""
        again = {record.id for record in live}
        self._ended = {one: record for one in ids if one not in again and (record := self._ended.get(one)) is not None}
        if new := [one for one in ids if one not in self._ended]:
            self._ended |= {record.id: record for record in self.context.store.read_records(new)}
        return [self._ended[one] for one in ids if one in self._ended]


def longest_age(start: StepStart, now: datetime, calm: timedelta = CALM) -> timedelta:
    """Return how old squeue's last answer may be for what there is now. Pure."""
    attempts = [attempt for record in start.records for attempt in record.attempts()]
    is_calm = all(_is_calm(one, start.load, now) for one in attempts)
    is_calm = is_calm and all(_goes_on(one, now) for one in (*start.downloads, *start.images))
    return calm if is_calm and not start.is_awaited else AT_ONCE


def _is_calm(attempt: Deployment, report: LoadReport | None, now: datetime) -> bool:
    """Return whether nothing is expected to happen to the attempt soon."""
    job = attempt.job
    if job is None or attempt.stop_requested_at is not None or job.leaving_since is not None:
        return False
    if report is not None and (report.cut or report.held.get(attempt.id)):
        return False
    if attempt.phase is Phase.READY:
        return job.listens
    begins_soon = job.begin_at is not None and abs(job.begin_at - now) < SETTLED
    return attempt.phase is Phase.QUEUED and not begins_soon and _is_settled(job.since.get(Phase.QUEUED), now)


def _goes_on(batch_job: BatchJob, now: datetime) -> bool:
    # one that runs on the login node writes what it does to a file, and needs no squeue
    if batch_job.slurm_id is None:
        return True
    return batch_job.stop_requested_at is None and _is_settled(batch_job.asked_at, now)


def _is_settled(since: datetime | None, now: datetime) -> bool:
    return since is not None and now - since >= SETTLED
