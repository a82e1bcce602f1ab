"""A thread that reads vLLM's /metrics of every job that serves: one read for the dashboard, the metrics and replicas.

Every few seconds while a page is open; otherwise every half minute, or as often as plans for replicas need. Of
several workers, one reads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
from bouchet_core.deployments import Deployment, Job, Phase
from bouchet_core.errors import StoreError
from bouchet_core.figures import JobFigures, parse_figures
from bouchet_core.live import point_between

from bouchet_worker.context import WorkerContext

from .health import SlotProbe

log = logging.getLogger(__name__)

WATCHED_S, SCALED_S, UNWATCHED_S = 5.0, 15.0, 30.0
# figures of that age decide about replicas
FRESH_S = 15.0
# how soon it is noticed that a page was opened
ASK_S = 1.0
LEASE_NAME, LEASE_S = "figures", 45.0
# jobs read at the same time: one that hangs delays the others by nothing
READERS = 4
# vLLM's whole page has about 100 KB
LONGEST_PAGE = 2 << 20
READ_TIMEOUT_S = 4.0


class FigureReader:
    """Reads and stores the figures. `latest` returns those of a job that were read last."""

    def __init__(self, context: WorkerContext, probe: SlotProbe) -> None:
        self._context, self._probe = context, probe
        self._latest: Mapping[str, JobFigures] = {}
        self._read_at, self._interval_s = float("-inf"), UNWATCHED_S
        self._is_failing = False

    def latest(self, job: str) -> JobFigures | None:
        """Return the figures of that job, None if they are older than a plan may be."""
        found = self._latest.get(job)
        return found if found is not None and (self._context.now() - found.at).total_seconds() <= FRESH_S else None

    def run(self, stopping: threading.Event) -> None:
        """Read until `stopping` is set."""
        with ThreadPoolExecutor(READERS, "figures") as pool:
            while not stopping.wait(ASK_S):
                self._attempt(pool)

    def _attempt(self, pool: ThreadPoolExecutor) -> None:
        try:
            self._step(pool)
        except StoreError as exc:
            if not self._is_failing:
                log.warning("figures of jobs are not read: %s", exc)
            self._is_failing = True
        except Exception:
            log.exception("figures of jobs cannot be read")
        else:
            self._is_failing = False

    def _step(self, pool: ThreadPoolExecutor) -> None:
        store, passed = self._context.store, time.monotonic() - self._read_at
        if passed < WATCHED_S or (passed < self._interval_s and not store.live_view.is_watched()):
            return
        if store.lease(LEASE_NAME, self._context.owner, LEASE_S):
            self._read_at = time.monotonic()
            records = store.live()
            scales = any(record.policy.replicas.high > record.policy.replicas.low for record in records)
            self._interval_s = SCALED_S if scales else UNWATCHED_S
            self.read_all(records, pool)

    def read_all(self, records: Iterable[Deployment], pool: ThreadPoolExecutor) -> None:
        """Read the figures of all jobs that serve, and store them."""
        serving = [(record, job) for record in records for job in record.live_jobs if has_figures(record, job)]
        found = [one for one in pool.map(self._read, serving) if one is not None]
        points = [point_between(self._latest.get(one.job), one) for one in found]
        self._latest = {one.job: one for one in found}
        self._context.store.figures.put(found)
        self._context.store.figures.keep(job.name for _, job in serving)
        if points:
            self._context.store.live_view.add_points(points)

    def _read(self, serving: tuple[Deployment, Job]) -> JobFigures | None:
        """Return what the job's server reports, None when it does not answer."""
        record, job = serving
        page = read_page(self._probe, job)
        if page is None:
            return None
        return parse_figures(page, deployment=record.id, job=job.name, at=self._context.now(), model=record.alias)


def is_serving(job: Job) -> bool:
    """Return whether the job answers requests."""
    return job.phase in (Phase.READY, Phase.DRAINING)


def has_figures(record: Deployment, job: Job) -> bool:
    """Return whether the job serves, by a vLLM: an attached server may be another one."""
    return is_serving(job) and (record.attached is None or job.vllm_version is not None)


def read_page(probe: SlotProbe, job: Job) -> str | None:
    """Return the page of a job's server, None when it does not answer or the page is too long."""
    try:
        with probe.client(job) as server, server.stream("GET", "/metrics", timeout=READ_TIMEOUT_S) as response:
            if response.status_code != httpx.codes.OK:
                return None
            page = b""
            for chunk in response.iter_bytes():
                page += chunk
                if len(page) > LONGEST_PAGE:
                    return None
    except httpx.HTTPError as exc:
        log.debug("job %s: its metrics cannot be read: %s", job.name, exc)
        return None
    return page.decode(errors="replace")
