"""What the worker must know of clients: requests that are open on each job, held ones, and demand for parked models.

A job is retired at zero open requests, so a request counts from the moment at which its job was chosen, without a gap.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from bouchet_core.errors import StoreUnavailableError
from bouchet_core.store import Store
from bouchet_core.store.load import JobLoad, LoadReport
from bouchet_core.usage import UsageRecord

log = logging.getLogger(__name__)

# a change is reported within this time
REPORT_S = 0.5
# ... and without a change in these intervals; the report expires after several of them
RENEW_S = 4.0
# a held request is asked for again in these intervals: the worker may have been away
ASK_AGAIN_S = 10.0
MAX_JOBS = 64
# the speed of a deployment: of its last answers with that many tokens; the slowest tenth counts
MEASURED_ANSWERS, LEAST_TOKENS = 100, 100
SLOW_SHARE = 0.1


class LoadTracker:
    """Counts on the event loop; read by the thread that reports. cut: how many requests wait for the link."""

    def __init__(
        self, now: Callable[[], datetime] = lambda: datetime.now(UTC), cut: Callable[[], int] = lambda: 0
    ) -> None:
        self._now, self._cut = now, cut
        self._open: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._last_end: OrderedDict[str, datetime] = OrderedDict()
        self._wanted: dict[str, datetime] = {}
        self._to_ask: tuple[str, ...] = ()
        self._speeds: OrderedDict[str, deque[float]] = OrderedDict()
        self.changed = threading.Event()

    @contextmanager
    def track(self, job_name: str) -> Iterator[None]:
        """Count a request as open on that job."""
        self._open[job_name] += 1
        self.changed.set()
        try:
            yield
        finally:
            self._open[job_name] -= 1
            self._ended(job_name)
            self.changed.set()

    @contextmanager
    def hold(self, deployment: str) -> Iterator[None]:
        """Count a request as held for that deployment."""
        self._held[deployment] += 1
        self.changed.set()
        try:
            yield
        finally:
            self._held[deployment] -= 1
            self.changed.set()

    def want(self, deployment: str) -> None:
        """Ask the worker to start a deployment; repeated at most every ASK_AGAIN_S."""
        now, last = self._now(), self._wanted.get(deployment)
        if last is None or abs((now - last).total_seconds()) >= ASK_AGAIN_S:
            if len(self._wanted) >= MAX_JOBS:
                self._wanted.clear()
            self._wanted[deployment] = now
            self._to_ask = (*self._to_ask, deployment)
            self.changed.set()

    def measure(self, record: UsageRecord) -> None:
        """Take the speed of an answer that has ended: how long the longest one may take follows from it.

        Not of one that another job went on with: it waited for that.
        """
        is_whole = not record.error and not record.continued and record.generating_ms > 0
        if not record.deployment or not is_whole or record.output < LEAST_TOKENS:
            return
        speeds = self._speeds.setdefault(record.deployment, deque(maxlen=MEASURED_ANSWERS))
        speeds.append(record.output * 1000 / record.generating_ms)
        self._speeds.move_to_end(record.deployment)
        if len(self._speeds) > MAX_JOBS:
            self._speeds.popitem(last=False)

    def take_wanted(self) -> tuple[str, ...]:
        """Return the deployments to ask the worker for, each once."""
        wanted, self._to_ask = self._to_ask, ()
        return tuple(dict.fromkeys(wanted))

    def seed(self, report: LoadReport) -> None:
        """Take over when the jobs were last used from the report of an earlier process."""
        for name, load in list(report.jobs.items())[-MAX_JOBS:]:
            if load.last_end is not None or load.open:
                self._last_end.setdefault(name, load.last_end or report.at)
        for name, speed in report.speeds.items():
            self._speeds.setdefault(name, deque((speed,), MEASURED_ANSWERS))

    def report(self, table_at: datetime | None) -> LoadReport:
        """Return the counts. table_at: of the routing table by which every later request is routed."""
        counts = {name: count for name, count in list(self._open.items()) if count > 0}
        ends = dict(self._last_end)
        jobs = {name: JobLoad(open=counts.get(name, 0), last_end=ends.get(name)) for name in {**ends, **counts}}
        held = {name: count for name, count in list(self._held.items()) if count > 0}
        speeds, cut = self._slow_speeds(), self._cut()
        return LoadReport(at=self._now(), table_at=table_at, jobs=jobs, held=held, cut=cut, speeds=speeds)

    def _slow_speeds(self) -> dict[str, float]:
        """Return the tokens a second of the slowest tenth of each deployment's answers."""
        found = {name: sorted(speeds) for name, speeds in list(self._speeds.items())}
        return {name: round(speeds[int(len(speeds) * SLOW_SHARE)], 1) for name, speeds in found.items()}

    def _ended(self, job_name: str) -> None:
        if self._open[job_name] <= 0:
            del self._open[job_name]
        self._last_end[job_name] = self._now()
        self._last_end.move_to_end(job_name)
        if len(self._last_end) > MAX_JOBS:
            self._last_end.popitem(last=False)


class LoadReporter:
    """Owns the thread that writes the report. table_at: when the records of the current routing table were read."""

    def __init__(self, store: Store, tracker: LoadTracker, table_at: Callable[[], datetime | None]) -> None:
        self._store, self._tracker, self._table_at = store, tracker, table_at
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load report", daemon=True)
        self._is_failing = False

    def start(self) -> None:
        """Take over an earlier report, and start the thread."""
        self._attempt(self._seed)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self._tracker.changed.set()
        self._thread.join(timeout=RENEW_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._tracker.changed.clear()
            self._attempt(self._write)
            # one report for many changes
            self._stopping.wait(REPORT_S)
            self._tracker.changed.wait(RENEW_S - REPORT_S)

    def _seed(self) -> None:
        known = self._store.load.current()
        if known is not None:
            self._tracker.seed(known)

    def _write(self) -> None:
        wanted = self._tracker.take_wanted()
        now = datetime.now(UTC)
        for deployment in wanted:
            self._store.load.want(deployment, now)
        # the table first: what is counted afterwards was routed by it or by a newer one
        table_at = self._table_at()
        self._store.load.report(self._tracker.report(table_at))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except StoreUnavailableError as exc:
            if not self._is_failing:
                log.warning("cannot report open requests; jobs are not retired meanwhile: %s", exc)
            self._is_failing = True
        except Exception:
            log.exception("cannot report open requests")
        else:
            self._is_failing = False
