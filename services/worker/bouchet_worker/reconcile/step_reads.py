"""What a step of the reconcile loop reads at its beginning, in one round trip where nothing has appeared or ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bouchet_core.batch_jobs import BatchJob
from bouchet_core.deployments import Deployment
from bouchet_core.notices import NOTICE_AGE
from bouchet_core.store.load import LoadReport
from bouchet_core.tasks import HEARTBEAT

from bouchet_worker.context import WorkerContext

LEASE_NAME = "reconcile"
LEASE_S = 10.0
HEARTBEAT_S = 15.0


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


@dataclass
class StepReader:
    """Renews heartbeats and lease, and reads. Methods raise StoreError."""

    context: WorkerContext
    # what has ended does not change, and is read once
    _ended: dict[str, Deployment] = field(default_factory=dict)

    def begin(self) -> StepStart:
        """Renew the heartbeats of the worker service and of this container, take the lease, and read."""
        store, owner = self.context.store, self.context.owner
        _, _, has_lease, epoch, records, targets, downloads, images, load, ended = store.ask(
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
        )
        if self.context.heartbeat_file is not None:
            self.context.heartbeat_file.touch()
        return StepStart(has_lease, epoch, records, targets, downloads, images, load, self._load_ended(ended, records))

    def _load_ended(self, ids: Sequence[str], live: Sequence[Deployment]) -> list[Deployment]:
        """Return the ended ones, the last to end first. One that was recovered since is read again when it ends."""
        again = {record.id for record in live}
        self._ended = {one: record for one in ids if one not in again and (record := self._ended.get(one)) is not None}
        if new := [one for one in ids if one not in self._ended]:
            self._ended |= {record.id: record for record in self.context.store.read_records(new)}
        return [self._ended[one] for one in ids if one in self._ended]
