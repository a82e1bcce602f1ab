"""Output of Slurm's programs as values: rows of jobs, times, node lists.

Written against Slurm 20.11 to 25.11. Output of another form raises SlurmOutputError. Times are seconds since 1970 (the
gateway sets SLURM_TIME_FORMAT=%s); dates without a time zone are understood too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bouchet_core.errors import SlurmOutputError
from bouchet_core.placement import UserUsage

_ISO = re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?$", re.ASCII)
# a wrapper of the site may drop --parsable, and Slurm's own sentence follows
_JOB_ID = re.compile(r"(?:Submitted batch job )?([0-9]+)(?:;\S*| on cluster \S+)?", re.ASCII)
# time that a job has run; Slurm prints it the same way everywhere
_RUN_TIME = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", re.ASCII)
_NO_TIME = frozenset({"", "N/A", "NONE", "UNKNOWN", "(NULL)"})


@dataclass(frozen=True)
class QueueRow:
    """A job as squeue lists it, of any program. Fields are as printed, except job_id and node."""

    job_id: int
    state: str
    reason: str
    start: str
    submitted: str
    # the first node, None before the start
    node: str | None
    nodes: str
    partition: str
    name: str
    # seconds of its present or last run
    run_s: float | None = None


@dataclass(frozen=True)
class JobRow:
    """A job as sacct or scontrol prints it."""

    job_id: int
    # e.g. `CANCELLED by 2001`
    state: str
    # `status:signal`
    exit_code: str
    nodes: str
    reason: str = ""
    name: str = ""
    # of the job's owner
    uid: str = ""
    # seconds of its last run
    run_s: float | None = None


@dataclass(frozen=True)
class StartEstimate:
    """The output of sbatch --test-only. start: as printed."""

    start: str
    nodes: str


@dataclass(frozen=True)
class MaintenanceWindow:
    """A reservation for maintenance. partition: the one that it is for; empty: all nodes."""

    start: datetime
    end: datetime
    partition: str = ""


def parse_job_id(text: str) -> int:
    """Parse the output of sbatch --parsable: `id` or `id;cluster`, perhaps between lines of a wrapper or a plugin."""
    found = [match for line in text.splitlines() if (match := _JOB_ID.fullmatch(line.strip()))]
    if not found:
        raise SlurmOutputError("sbatch", text)
    return int(found[-1][1])


def parse_queue(text: str) -> list[QueueRow]:
    """Parse the output of squeue_argv.

    Lines that are no rows (a federation's `CLUSTER:` head, a warning) are passed over where rows are beside them.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("CLUSTER:")]
    rows = [row for line in lines if (row := _queue_row(line))]
    if lines and not rows:
        raise SlurmOutputError("squeue", lines[0])
    return rows


def _queue_row(line: str) -> QueueRow | None:
    head, _, rest = line.partition("|")
    # the time may be INVALID, and a squeue of the site's own may print no time
    parts = (line if head.strip().isdigit() else rest).split("|", 8)
    if len(parts) != 9 or not parts[0].strip().isdigit():
        return None
    job_id, state, reason, start, submitted, node, nodes, partition, name = (part.strip() for part in parts)
    first = node if node and node.lower() not in ("n/a", "none", "(null)") else None
    return QueueRow(int(job_id), state, reason, start, submitted, first, nodes, partition, name, run_seconds(head))


def parse_usage(text: str) -> dict[str, UserUsage]:
    """Parse the output of usage_argv into sums by partition. A job that names several partitions counts in each."""
    usage: dict[str, UserUsage] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 2:
            raise SlurmOutputError("squeue", line)
        runs, gpus = fields[0] != "PENDING", count_gpus(fields[2] if len(fields) > 2 else "")
        for partition in fields[1].split(","):
            old = usage.get(partition, UserUsage())
            usage[partition] = UserUsage(old.submitted + 1, old.running + runs, old.gpus + (gpus if runs else 0))
    return usage


def count_gpus(tres: str) -> int:
    """Count GPUs in `cpu=2,mem=6G,gres/gpu=2,gres/gpu:h200=2`: the plain number, else the sum of the typed ones."""
    plain = re.findall(r"(?:^|,)gres/gpu=(\d+)", tres, re.ASCII)
    return sum(map(int, plain or re.findall(r"(?:^|,)gres/gpu:[^=,]+=(\d+)", tres, re.ASCII)))


def parse_maintenance(text: str) -> list[MaintenanceWindow]:
    """Parse scontrol's lines about reservations: those for maintenance, of all nodes or of a partition.

    A reservation of some nodes only does not count: Slurm starts jobs on the others. Nor does one whose times are
    printed without a time zone.
    """
    found = []
    for line in text.splitlines():
        fields = dict(word.split("=", 1) for word in reversed(line.split()) if "=" in word)
        flags = fields.get("Flags", "").split(",")
        partition = fields.get("PartitionName", "").replace("(null)", "")
        start, end = fields.get("StartTime", ""), fields.get("EndTime", "")
        if "MAINT" not in flags or not (partition or "ALL_NODES" in flags):
            continue
        if start.isdecimal() and end.isdecimal() and int(start) < int(end) < 1 << 34:
            starts_at, ends_at = (datetime.fromtimestamp(int(seconds), UTC) for seconds in (start, end))
            found.append(MaintenanceWindow(starts_at, ends_at, partition))
    return found


def parse_accounting(text: str) -> list[JobRow]:
    """Parse the output of sacct_argv. A requeued job has one row for each run, the last run last."""
    rows = []
    lines = [line for line in text.splitlines() if line.strip()]
    for line in lines:
        parts = line.split("|", 5)
        if len(parts) != 6 or not parts[0].isdigit():
            continue
        rows.append(JobRow(int(parts[0]), parts[1], parts[2], parts[3], uid=parts[4], name=parts[5]))
    if lines and not rows:
        raise SlurmOutputError("sacct", lines[0])
    return rows


def parse_job(text: str) -> JobRow:
    """Parse scontrol's one line about one job.

    The first field of a name counts: comments and command lines, which may hold anything, are at the end.
    """
    fields = dict(word.split("=", 1) for word in reversed(text.split()) if "=" in word)
    if not fields.get("JobId", "").isdigit() or "JobState" not in fields:
        raise SlurmOutputError("scontrol", text)
    found = re.search(r" Reason=(.*?) \w+=", text)
    reason = found.group(1) if found else ""
    return JobRow(
        int(fields["JobId"]),
        fields["JobState"],
        fields.get("ExitCode", ""),
        fields.get("NodeList", "").replace("(null)", ""),
        "" if reason == "None" else reason,
        fields.get("JobName", ""),
        uid=(re.findall(r"\((\d+)\)$", fields.get("UserId", "")) or [""])[0],
        run_s=run_seconds(fields.get("RunTime", "")),
    )


def parse_start_estimate(stderr: str) -> StartEstimate | None:
    """Parse `sbatch: Job 4 to start at T using 1 processors on nodes N in partition P`; None when it names no time.

    Slurm 22.05 and older print `on N in partition P`.
    """
    found = re.search(r"to start at (\S+) using .* on (?:nodes? )?(\S+)", stderr)
    return StartEstimate(found.group(1), found.group(2)) if found else None


# times


def run_seconds(printed: str) -> float | None:
    """Return the seconds of `1-02:03:04`, `02:03:04` or `3:04`; None for anything else, such as INVALID."""
    found = _RUN_TIME.fullmatch(printed.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def start_sort_key(printed: str) -> tuple[float, str]:
    """Return what sorts printed times of one form; times that cannot be read are last."""
    moment = _printed_time(printed)
    return (moment.timestamp() if moment else float("inf"), printed)


def queue_wait_s(row: QueueRow) -> float | None:
    """Return the seconds from submission to start by Slurm's clock, None where one of the two is not printed."""
    submitted, start = _printed_time(row.submitted), _printed_time(row.start)
    return None if submitted is None or start is None else max(0.0, (start - submitted).total_seconds())


def _printed_time(text: str) -> datetime | None:
    """Return a time as printed. A date has no time zone, so it is only good for differences."""
    if text.isascii() and text.isdigit():
        return datetime.fromtimestamp(int(text), UTC)
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if _ISO.match(text) else None


def expected_start(row: QueueRow, submitted_at: datetime | None) -> datetime | None:
    """Return when Slurm expects to start the job, None where it prints nothing or no full date.

    A printed date is the cluster's local time without its zone. The zone is the difference between the submission time
    as printed and as we know it. Sites that set SLURM_TIME_FORMAT=relative print no dates.
    """
    if row.start.upper() in _NO_TIME:
        return None
    if row.start.isascii() and row.start.isdigit():
        return datetime.fromtimestamp(int(row.start), UTC)
    if submitted_at is None or not _ISO.match(row.start) or not _ISO.match(row.submitted):
        return None
    printed = datetime.fromisoformat(row.submitted).replace(tzinfo=UTC)
    quarters = round((printed - submitted_at).total_seconds() / 900)
    return datetime.fromisoformat(row.start).replace(tzinfo=UTC) - timedelta(minutes=15 * quarters)


# node lists


def expand_nodes(text: str) -> list[str]:
    """Return the names in `node[1-2,07],gpu3`. A name may hold several pairs of brackets."""
    names: list[str] = []
    for part in _split_outside_brackets(text):
        names += _expand(part, text)
    return names


def _split_outside_brackets(text: str) -> list[str]:
    parts = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    if ",".join(parts) != text.strip():
        raise SlurmOutputError("Slurm (a node list)", text)
    return parts


def _expand(part: str, whole: str) -> list[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if not found:
        return [part]
    head, tail = part[: found.start()], part[found.end() :]
    numbers = [number for piece in found.group(1).split(",") for number in _numbers(piece, whole)]
    return [f"{head}{number}{rest}" for number in numbers for rest in _expand(tail, whole)]


def _numbers(piece: str, whole: str) -> list[str]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", piece, re.ASCII)
    if not found:
        raise SlurmOutputError("Slurm (a node list)", whole)
    first, last = found.group(1), found.group(2) or found.group(1)
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
