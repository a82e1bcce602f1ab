"""What ended jobs leave on the cluster: keys are removed soon after the end, folders and logs some weeks later.

Nothing that squeue lists or a live record names is removed, and nothing at all while Slurm cannot be queried.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from bouchet_core.batch_jobs import BatchJob
from bouchet_core.deployments import Deployment, Job, Phase
from bouchet_core.errors import BouchetError, ClusterUnavailableError
from pydantic import BaseModel, ConfigDict

from bouchet_worker.context import StartWork, WorkerContext, start_thread
from bouchet_worker.scripts import output_errors_mapped, remote_file_exists, run_script
from bouchet_worker.slurm.queries import list_queue

log = logging.getLogger(__name__)

SCRIPT = "cleanup.py"
INTERVAL = timedelta(days=1)
RETRY = timedelta(minutes=2)
# Slurm may requeue a job a moment after it has ended, and then the job needs its key
GRACE = timedelta(seconds=60)
# the newest records; the key of an older one is removed with its folder
RECORDS = 200


class CleanupResult(BaseModel):
    """What cleanup.py prints. trouble: why some files could not be removed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    secrets: tuple[str, ...]
    folders: tuple[str, ...]
    logs: tuple[str, ...]
    trouble: str | None = None


@dataclass
class CleanupScheduler:
    """Cleans up once a day, and soon after anything has ended."""

    context: WorkerContext
    start: StartWork = start_thread
    _live: frozenset[str] = frozenset()
    _due: datetime | None = None
    # when the grace period of the newest end is over
    _grace_ends_at: datetime | None = None
    _is_running: bool = False

    def run_if_due(self, live: Collection[str]) -> None:
        """Start a cleanup run if one is due. live: ids of everything that has not ended."""
        now = self.context.now()
        if self._live - frozenset(live):
            self._grace_ends_at = now + GRACE
            self._due = min(self._due or now, self._grace_ends_at)
        self._live = frozenset(live)
        if self._is_running or (self._due is not None and now < self._due):
            return
        # jobs that ended since are still in the grace period: they need another run
        waiting = self._grace_ends_at is not None and self._grace_ends_at > now
        self._is_running, self._due = True, self._grace_ends_at if waiting else now + INTERVAL
        self.start(self._run)

    def _run(self) -> None:
        try:
            clean_up(self.context)
        except BouchetError as exc:
            self._due = self.context.now() + RETRY
            level = logging.DEBUG if isinstance(exc, ClusterUnavailableError) else logging.WARNING
            log.log(level, "cleanup failed: %s", exc)
        except Exception:
            # no retry: a bug here must not fill the log every two minutes
            log.exception("cleanup failed")
        finally:
            self._is_running = False


def clean_up(context: WorkerContext) -> CleanupResult | None:
    """Return what was removed; None where nothing of ours exists yet. Raises gateway and store errors.

    Nothing is removed while a live record cannot be read: which files it needs is not known.
    """
    if not remote_file_exists(context, context.paths.logs_readme()):
        return None
    store = context.store
    unreadable = [one for records in (store, store.downloads, store.images) for one in records.unreadable(live=True)]
    if unreadable:
        log.warning("cleanup waits: the record of %s %s cannot be read", unreadable[0].kind, unreadable[0].id)
        return None
    # read in this order: a job that ends between the reads counts as live
    ended = _ended(context)
    rows = list_queue(context)
    live = {
        *(job.name for record in context.store.live() for job in record.live_jobs),
        *_batch_job_names([*context.store.downloads.live(), *context.store.images.live()]),
    }
    request = {
        "root": context.site.root,
        "live": sorted({*live, *(row.name for row in rows)}),
        "live_ids": sorted(row.job_id for row in rows),
        "ended": sorted(ended),
        "keep_days": context.site.keep_jobs_days,
    }
    output = run_script(context, SCRIPT, request=request)
    with output_errors_mapped(SCRIPT, output):
        result = CleanupResult.model_validate(output)
    _log(result)
    return result


def kept_until(context: WorkerContext, ended_at: datetime) -> datetime | None:
    """Return when folder and log of a job that ended then are removed; None: never."""
    return ended_at + timedelta(days=context.site.keep_jobs_days) if context.site.keep_jobs_days else None


def _ended(context: WorkerContext) -> set[str]:
    """Return the names of jobs that ended before the grace period, with their record or without."""
    until = context.now() - GRACE
    records = [one for one in context.store.page(RECORDS) if not one.is_live and one.updated_at <= until]
    old = {job.name for one in context.store.live() for job in one.jobs if _has_ended(job, until)}
    batch_jobs: list[BatchJob] = [*context.store.downloads.page(RECORDS), *context.store.images.page(RECORDS)]
    ended = [one for one in batch_jobs if not one.is_live and one.updated_at <= until]
    return {*old, *_job_names(records), *_batch_job_names(ended)}


def _has_ended(job: Job, until: datetime) -> bool:
    ended_at = job.since.get(Phase.ENDED)
    return not job.is_live and ended_at is not None and ended_at <= until


def _job_names(records: Iterable[Deployment]) -> set[str]:
    return {job.name for record in records for job in record.jobs}


def _batch_job_names(records: Iterable[BatchJob]) -> set[str]:
    return {record.job_name for record in records if record.job_name}


def _log(result: CleanupResult) -> None:
    if result.secrets or result.folders or result.logs:
        counts = (len(result.secrets), len(result.folders), len(result.logs))
        log.info("cleanup: removed the keys of %d ended jobs, %d old folders, %d old log files", *counts)
    if result.trouble:
        log.warning("cleanup: some files could not be removed: %s", result.trouble)
