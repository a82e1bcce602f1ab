"""What sacct says of our jobs: asked once for all of them, each night and soon after a job has ended.

The ledger measures GPU time itself, because a site need not have accounting; where it has, the difference is shown.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from bouchet_core.deployments import Job, Phase
from bouchet_core.errors import BouchetError, ClusterUnavailableError, SlurmOutputError
from bouchet_core.ledger import MOST_PAUSES, AccountingEntry, Pause

from bouchet_worker.context import StartWork, WorkerContext, start_thread
from bouchet_worker.slurm.commands import QUERY_TIMEOUT_S
from bouchet_worker.slurm.parsing import count_gpus

log = logging.getLogger(__name__)

# with a row for each run of a job that Slurm has requeued; the name is last: only it may hold the separator
FIELDS = "JobIDRaw,State,Start,End,ElapsedRaw,AllocTRES,JobName"
# how far back a night looks, and how many newest records it looks through
DAYS = timedelta(days=8)
RECORDS = 200
# a command line is bounded, and so is the output that the gateway returns
JOBS_AT_ONCE = 250
# accounting knows an end a little later
GRACE = timedelta(minutes=3)
RETRY = timedelta(minutes=10)
# of the day, in UTC: between midnight and morning in America
NIGHT_HOUR = 7
# Unix time, from the year 2000 on; others are no times of a job
FIRST_S, LATEST_S = 946_684_800, 1 << 36
RUNNING_STATES = ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "CONFIGURING", "RESIZING")


@dataclass(frozen=True)
class AccountingRow:
    """One run of a job, as sacct prints it."""

    job_id: int
    state: str
    elapsed_s: float
    gpus: int
    name: str
    # None where sacct prints no time of that kind, or one without its time zone
    start: datetime | None = None
    end: datetime | None = None

    @property
    def has_ended(self) -> bool:
        """Whether this run is over; a run that was requeued is, its job is not."""
        return self.state.split(" ")[0] not in RUNNING_STATES


def accounting_argv(job_ids: Collection[int]) -> list[str]:
    """Return the query for all runs of those jobs."""
    ids = ",".join(str(one) for one in sorted(job_ids))
    options = ["--allocations", "--duplicates", "--parsable2", "--noheader", f"--format={FIELDS}"]
    return ["sacct", *options, f"--jobs={ids}"]


def parse_accounting_rows(text: str) -> list[AccountingRow]:
    """Parse its output; lines that are no rows are passed over where rows are beside them."""
    rows = []
    lines = [line for line in text.splitlines() if line.strip()]
    for line in lines:
        parts = line.split("|", 6)
        if len(parts) == 7 and parts[0].isdigit() and parts[4].isdigit():
            gpus, times = count_gpus(parts[5]), (_moment(parts[2]), _moment(parts[3]))
            rows.append(AccountingRow(int(parts[0]), parts[1], float(parts[4]), gpus, parts[6], *times))
    if lines and not rows:
        raise SlurmOutputError("sacct", lines[0])
    return rows


def _moment(printed: str) -> datetime | None:
    is_number = len(printed) < 20 and printed.isascii() and printed.isdigit() and FIRST_S <= int(printed) < LATEST_S
    return datetime.fromtimestamp(int(printed), UTC) if is_number else None


def pauses_of(runs: Sequence[AccountingRow]) -> tuple[Pause, ...]:
    """Return the time between the runs of one job, in their order."""
    times = sorted((run.start, run.end) for run in runs if run.start is not None and run.end is not None)
    found = [Pause(start=end, end=start) for (_, end), (start, _) in pairwise(times) if end < start]
    return tuple(found[-MOST_PAUSES:])


def entries_of(jobs: Iterable[Job], rows: Iterable[AccountingRow], asked_at: datetime) -> list[AccountingEntry]:
    """Return an entry for each job that has ended by accounting too: its runs added."""
    runs: defaultdict[tuple[int, str], list[AccountingRow]] = defaultdict(list)
    for row in rows:
        runs[row.job_id, row.name].append(row)
    entries = []
    for job in jobs:
        found = runs.get((job.slurm_id or 0, job.name), [])
        if not found or not found[-1].has_ended:
            continue
        entries.append(
            AccountingEntry(
                job=job.name,
                slurm_id=found[-1].job_id,
                asked_at=asked_at,
                state=found[-1].state,
                runs=len(found),
                allocated_s=sum(row.elapsed_s for row in found),
                gpu_s=sum(row.elapsed_s * row.gpus for row in found),
                pauses=pauses_of(found),
            )
        )
    return entries


def compare_accounting(context: WorkerContext) -> int:
    """Ask sacct about all jobs that ended lately, and append what it says; return of how many jobs."""
    now = context.now()
    since = now - DAYS
    records = {record.id: record for record in (*context.store.page(RECORDS), *context.store.live())}
    jobs = [job for record in records.values() for job in record.jobs if _ended_after(job, since)]
    entries: list[AccountingEntry] = []
    for first in range(0, len(jobs), JOBS_AT_ONCE):
        part = jobs[first : first + JOBS_AT_ONCE]
        argv = accounting_argv({job.slurm_id for job in part if job.slurm_id is not None})
        rows = parse_accounting_rows(context.gateway.run(argv, timeout_s=QUERY_TIMEOUT_S).stdout)
        entries += entries_of(part, rows, now)
    context.store.ledger.append(entries)
    return len(entries)


def _ended_after(job: Job, since: datetime) -> bool:
    ended = job.since.get(Phase.ENDED)
    return job.slurm_id is not None and ended is not None and ended >= since


@dataclass
class AccountingScheduler:
    """Asks at night, and some minutes after jobs have ended."""

    context: WorkerContext
    start: StartWork = start_thread
    _live: frozenset[str] = frozenset()
    _due: datetime | None = None
    _night: datetime | None = None
    _is_running: bool = False

    def run_if_due(self, live: Collection[str]) -> None:
        """Start a query if one is due. live: names of the jobs that have not ended."""
        now = self.context.now()
        if self._night is None:
            self._night = next_night(now)
        if self._live - frozenset(live):
            self._due = now + GRACE
        self._live = frozenset(live)
        is_night = now >= self._night
        if self._is_running or not (is_night or (self._due is not None and now >= self._due)):
            return
        self._night = next_night(now)
        self._is_running, self._due = True, None
        self.start(self._run)

    def _run(self) -> None:
        try:
            count = compare_accounting(self.context)
            log.info("ledger: compared %d jobs with sacct", count)
        except ClusterUnavailableError as exc:
            self._due = self.context.now() + RETRY
            log.debug("ledger: sacct cannot be asked: %s", exc)
        except BouchetError as exc:
            # a site without accounting: the next night is soon enough
            log.info("ledger: no comparison with sacct: %s", exc)
        except Exception:
            log.exception("ledger: the comparison with sacct failed")
        finally:
            self._is_running = False


def next_night(now: datetime) -> datetime:
    """Return when the next comparison of the night begins."""
    tonight = now.replace(hour=NIGHT_HOUR, minute=0, second=0, microsecond=0)
    return tonight if now < tonight else tonight + timedelta(days=1)
