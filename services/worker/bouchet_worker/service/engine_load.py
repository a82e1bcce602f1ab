"""How busy the vLLM servers of a deployment are, from their /metrics: what replicas are added for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from bouchet_core.deployments import Deployment, Job, Phase
from bouchet_core.figures import JobFigures

from bouchet_worker.reconcile.figures import read_page
from bouchet_worker.reconcile.health import SlotProbe

from .estimates import backlog_s
from .inputs import ServiceLoad

# a load is high from these values on
HIGH_WAITING, HIGH_KV_USE = 5, 0.8
READ_EVERY_S = 15.0
# rates are of the requests of this time
RATE_S = 180.0
_LINE = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|request_success_total)(?:\{[^}]*\})? (\S+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class EngineLoad:
    """What one server reports. kv_use: the used fraction of its KV cache; finished: requests since its start."""

    running: float = 0.0
    waiting: float = 0.0
    kv_use: float = 0.0
    finished: float = 0.0


@dataclass(frozen=True)
class _Sample:
    at: float
    finished: float
    # running or waiting
    present: float


def parse_engine_load(text: str) -> EngineLoad:
    """Parse a page of vLLM's metrics; engines of one server are added, a missing or odd value counts nothing."""
    sums = {"num_requests_running": 0.0, "num_requests_waiting": 0.0, "request_success_total": 0.0}
    kv_use = 0.0
    for name, printed in _LINE.findall(text):
        try:
            value = float(printed)
        except ValueError:
            continue
        if not 0 <= value < float("inf"):
            continue
        if name == "kv_cache_usage_perc":
            kv_use = max(kv_use, min(value, 1.0))
        else:
            sums[name] += value
    return EngineLoad(sums["num_requests_running"], sums["num_requests_waiting"], kv_use, sums["request_success_total"])


class LoadHistory:
    """The load of one deployment over the last minutes."""

    def __init__(self) -> None:
        self.high_since: datetime | None = None
        self.read_at = float("-inf")
        self._samples: list[_Sample] = []
        self._latest: Sequence[EngineLoad] = ()
        self._jobs: frozenset[str] = frozenset()

    def add(self, loads: Sequence[EngineLoad], jobs: Iterable[str], now: datetime, at: float) -> None:
        """Add what the jobs' servers report. at: seconds of a clock that is never set."""
        names = frozenset(jobs)
        if names != self._jobs:
            # counters of other servers: rates begin again
            self._samples, self._jobs = [], names
        self._latest, self.read_at = loads, at
        is_high = any(load.waiting > HIGH_WAITING or load.kv_use > HIGH_KV_USE for load in loads)
        self.high_since = (self.high_since or now) if is_high else None
        present = sum(load.running + load.waiting for load in loads)
        self._samples.append(_Sample(at, sum(load.finished for load in loads), present))
        self._samples = [sample for sample in self._samples if at - sample.at <= RATE_S]

    def added_to(self, load: ServiceLoad) -> ServiceLoad:
        """Return the load with what the servers report."""
        if not self._latest:
            return load
        busiest = max(self._latest, key=lambda one: (one.waiting, one.kv_use))
        return replace(
            load,
            waiting=round(busiest.waiting),
            kv_use=max(one.kv_use for one in self._latest),
            high_since=self.high_since,
            backlog_s=self._backlog_s(),
        )

    def _backlog_s(self) -> float | None:
        """Return when the waiting requests are done; None: they only get more, or no rate is known yet."""
        waiting = round(sum(load.waiting for load in self._latest))
        first, last = self._samples[0], self._samples[-1]
        passed = last.at - first.at
        if passed <= 0:
            return None if waiting else 0.0
        finished = (last.finished - first.finished) / passed
        arriving = finished + (last.present - first.present) / passed
        return backlog_s(waiting, finished, arriving)


class LoadWatch:
    """Reads the load of deployments whose policy allows another replica, every READ_EVERY_S.

    latest: figures of a job that were read a moment ago for others, None without any.
    """

    def __init__(self, probe: SlotProbe, latest: Callable[[str], JobFigures | None] = lambda _: None) -> None:
        self._probe, self._latest = probe, latest
        self._histories: dict[str, LoadHistory] = {}

    def added_to(self, load: ServiceLoad, record: Deployment, now: datetime) -> ServiceLoad:
        """Return the load with what the deployment's servers report; unchanged where no replica may be added."""
        replicas = record.policy.replicas
        if replicas.high == replicas.low:
            self._histories.pop(record.id, None)
            return load
        history = self._histories.setdefault(record.id, LoadHistory())
        at = time.monotonic()
        if at - history.read_at >= READ_EVERY_S:
            serving = [job for job in record.live_jobs if job.phase is Phase.READY and job.leaving_since is None]
            found = {job.name: engine for job in serving if (engine := self._read(job)) is not None}
            history.add(list(found.values()), found, now, at)
        return history.added_to(load)

    def forget(self, live: Iterable[str]) -> None:
        """Forget deployments that have ended."""
        self._histories = {name: self._histories[name] for name in live if name in self._histories}

    def _read(self, job: Job) -> EngineLoad | None:
        """Return what the job's server reports, None when it does not answer."""
        if (known := self._latest(job.name)) is not None:
            return EngineLoad(known.running, known.waiting, known.kv_share or 0.0, sum(known.finished.values()))
        page = read_page(self._probe, job)
        return None if page is None else parse_engine_load(page)
