"""Appends an entry whenever a job begins, changes what it does, or ends.

Measures are kept in Redis beside the entries that come from them, so that a worker that was killed goes on where it
was: what it appends again has the same job and the same start, and the ledger keeps one of the two.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bouchet_core.deployments import Deployment, Job, Phase
from bouchet_core.errors import RecordError
from bouchet_core.ledger import JobEntry, JobMeasure, advance
from bouchet_core.store.load import LoadReport

from bouchet_worker.context import WorkerContext

log = logging.getLogger(__name__)

# newest records whose ended jobs a new worker compares with what was measured
RECORDS = 200


@dataclass
class JobTimes:
    """Measures all jobs. Methods raise StoreError."""

    context: WorkerContext
    # by name of the job; None until they were read
    _measured: dict[str, JobMeasure] | None = None
    # jobs of records that are not live any more
    _last_seen: dict[str, str] = field(default_factory=dict)
    # since when the proxy reports a job without any use of it
    _unused_since: dict[str, datetime] = field(default_factory=dict)

    def forget(self) -> None:
        """Forget what was read: another worker measures from now on."""
        self._measured = None

    def step(self, records: Sequence[Deployment], report: LoadReport | None) -> None:
        """Measure the jobs of the live records, and of those that have ended since the last step."""
        if self._measured is None:
            self._begin(report)
        assert self._measured is not None
        live = {job.name: record.id for record in records for job in record.jobs}
        gone = {name: record for name, record in self._last_seen.items() if name not in live}
        self._last_seen = live
        if not live and not gone:
            return
        ended = [found for identity in sorted(set(gone.values())) if (found := self._find(identity)) is not None]
        self._measure([*records, *ended], self._measured, report)

    def _begin(self, report: LoadReport | None) -> None:
        """Read the measures, and take in what ended while no worker measured."""
        store = self.context.store
        measured = store.ledger.measured()
        records = store.page(RECORDS)
        names = {job.name for record in records for job in record.jobs}
        old = sorted(set(measured) - names)
        if old:
            store.ledger.append((), forgotten=old)
        self._measured = {name: measure for name, measure in measured.items() if name in names}
        self._measure(records, self._measured, report)

    def _measure(
        self, records: Sequence[Deployment], measured: dict[str, JobMeasure], report: LoadReport | None
    ) -> None:
        now = self.context.now()
        changed: dict[str, JobMeasure] = {}
        entries: list[JobEntry] = []
        for record, job in _jobs_of(records):
            before = measured.get(job.name, JobMeasure())
            last_use = self._last_use(job, report, now)
            after, entry = advance(before, record, job, self._charge(job), last_use, now)
            if entry is not None:
                changed[job.name] = after
                entries.append(entry)
        if entries:
            self.context.store.ledger.append(entries, changed)
            measured.update(changed)

    def _find(self, identity: str) -> Deployment | None:
        try:
            return self.context.store.get(identity)
        except RecordError as exc:
            log.warning("ledger: the end of deployment %s is not known: %s", identity, exc)
            return None

    def _charge(self, job: Job) -> tuple[float | None, str]:
        site = self.context.site
        if job.placement is None:
            return None, ""
        return site.charge_per_gpu_hour(job.placement.partition, job.placement.gpu_type), site.charge_unit

    def _last_use(self, job: Job, report: LoadReport | None, now: datetime) -> datetime | None:
        """Return when the job last had an open request, `now` while it has one, None where that is not known."""
        ready_at = job.since.get(Phase.READY)
        if job.phase is not Phase.READY or report is None or ready_at is None:
            self._unused_since.pop(job.name, None)
            return None
        found = report.jobs.get(job.name)
        if found is not None and found.open:
            self._unused_since.pop(job.name, None)
            return now
        if found is not None and found.last_end is not None:
            return max(found.last_end, ready_at)
        # a proxy that was restarted does not know when the job was last used
        return self._unused_since.setdefault(job.name, now)


def _jobs_of(records: Sequence[Deployment]) -> Iterator[tuple[Deployment, Job]]:
    return ((record, job) for record in records if record.attached is None for job in record.jobs if job.since)
