"""What ended jobs leave on the cluster: their keys go soon after the end, their folders and logs some weeks later.

Never what squeue lists or what a live record speaks of; and nothing at all while Slurm cannot be asked.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from bouchet_core.batch_jobs import BatchJob
from bouchet_core.deployments import Deployment
from bouchet_core.errors import BouchetError, ClusterUnavailableError, GatewayError
from pydantic import BaseModel, ConfigDict, ValidationError

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import is_staged, stage_scripts
from bouchet_worker.slurm.find_job import queue_rows

log = logging.getLogger(__name__)

PROGRAM = "cleanup.py"
TIMEOUT_S = 60.0
EVERY = timedelta(days=1)
AGAIN = timedelta(minutes=2)
# Slurm may put a job back into the queue a moment after it was seen to end, and then it needs its key
GRACE = timedelta(seconds=60)
# the newest records; of an older one the key goes with the folder
LOOKED_AT = 200

Start = Callable[[Callable[[], None]], None]


class Removed(BaseModel):
    """What cleanup.py prints. trouble: why it could not remove all."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    secrets: tuple[str, ...]
    folders: tuple[str, ...]
    logs: tuple[str, ...]
    trouble: str | None = None


def in_a_thread(work: Callable[[], None]) -> None:
    """Does it beside: no task waits for it. It dies with the process, and the next worker begins with it."""
    threading.Thread(target=work, name="tidy", daemon=True).start()


@dataclass
class Housekeeper:
    """Tidies once a day, and soon after something has ended. start: how a go is begun; at once in tests."""

    context: WorkerContext
    start: Start = in_a_thread
    _live: frozenset[str] = frozenset()
    _due: datetime | None = None
    # when the newest end is old enough
    _ripe: datetime | None = None
    _under_way: bool = False

    def look(self, live: Collection[str]) -> None:
        """Begins a go where one is due. live: ids of all that has not ended."""
        now = self.context.now()
        if self._live - frozenset(live):
            self._ripe = now + GRACE
            self._due = min(self._due or now, self._ripe)
        self._live = frozenset(live)
        if self._under_way or (self._due is not None and now < self._due):
            return
        # what ended while this one was awaited is too young for it
        after = self._ripe if self._ripe is not None and self._ripe > now else now + EVERY
        self._under_way, self._due = True, after
        self.start(self._do)

    def _do(self) -> None:
        try:
            tidy(self.context)
        except BouchetError as exc:
            self._due = self.context.now() + AGAIN
            log.log(
                logging.DEBUG if isinstance(exc, ClusterUnavailableError) else logging.WARNING, "not tidied: %s", exc
            )
        except Exception:
            # a bug here must not fill the log every two minutes
            log.exception("not tidied")
        finally:
            self._under_way = False


def tidy(context: WorkerContext) -> Removed | None:
    """What was removed; None where nothing of ours lies there yet. Raises what gateway and store raise."""
    if not is_staged(context, context.layout.logs_readme()):
        return None
    # in this order: what ends meanwhile counts as live
    ended = _ended(context)
    rows = queue_rows(context)
    live = {
        *_names(context.store.live()),
        *_batch_jobs([*context.store.downloads.live(), *context.store.images.live()]),
    }
    stage_scripts(context)
    asked = {
        "root": context.site.root,
        "live": sorted({*live, *(row.name for row in rows)}),
        "live_ids": sorted(row.job_id for row in rows),
        "ended": sorted(ended),
        "keep_days": context.site.keep_jobs_days,
    }
    argv = ["python3", f"{context.layout.scripts(context.scripts.digest)}/{PROGRAM}"]
    text = context.gateway.run(argv, stdin=json.dumps(asked), timeout_s=TIMEOUT_S).stdout
    try:
        removed = Removed.model_validate_json(text)
    except ValidationError as exc:
        raise GatewayError(f"cannot read what {PROGRAM} printed: {text[:200]!r}") from exc
    _tell(removed)
    return removed


def kept_until(context: WorkerContext, ended_at: datetime) -> datetime | None:
    """When folder and log of a job that ended then may go; None: never."""
    return ended_at + timedelta(days=context.site.keep_jobs_days) if context.site.keep_jobs_days else None


def _ended(context: WorkerContext) -> set[str]:
    """Names of jobs whose records ended long enough ago."""
    until = context.now() - GRACE
    records = [one for one in context.store.page(LOOKED_AT) if not one.is_live and one.updated_at <= until]
    batch_jobs: list[BatchJob] = [*context.store.downloads.page(LOOKED_AT), *context.store.images.page(LOOKED_AT)]
    return {*_names(records), *_batch_jobs(one for one in batch_jobs if not one.is_live and one.updated_at <= until)}


def _names(records: Iterable[Deployment]) -> set[str]:
    return {job.name for record in records for job in record.jobs}


def _batch_jobs(records: Iterable[BatchJob]) -> set[str]:
    return {record.job_name for record in records if record.job_name}


def _tell(removed: Removed) -> None:
    if removed.secrets or removed.folders or removed.logs:
        counts = (len(removed.secrets), len(removed.folders), len(removed.logs))
        log.info("tidied the cluster: keys of %d ended jobs, %d old folders, %d old files of logs", *counts)
    if removed.trouble:
        log.warning("not all could be tidied on the cluster: %s", removed.trouble)
