"""Slurm as text: command lines, what the programs print, times, node lists. Nothing is run here.

Read against Slurm 20.11 to 25.11. What a newer one prints differently raises SlurmOutputError instead of being guessed.
The gateway sets SLURM_TIME_FORMAT=%s, so times are seconds since 1970; dates without a zone are understood too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bouchet_core.deployments import Placement
from bouchet_core.errors import SlurmOutputError
from bouchet_core.placement import UserUsage
from bouchet_core.values import format_duration

# the name stands last: it is the one field that may hold the separator
QUEUE_FORMAT = "%A|%T|%r|%S|%V|%B|%N|%P|%j"
ACCOUNT_FIELDS = "JobIDRaw,State,ExitCode,NodeList,UID,JobName"
# what one user holds; Slurm cuts each field at its width
HELD_FORMAT = "state:.20,partition:.60,tres-alloc:.300"
# a job of ours hears of its end this long before it, to finish the streams under way
WARNING_S = 120

# sbatch may have reached Slurm although it failed with these: look for the job before trying again
_UNSURE = re.compile(r"socket timed out|unable to contact slurm|zero bytes were transmitted|unexpected message", re.I)
_BUSY = re.compile(r"temporarily unable|resource temporarily unavailable|slurmctld.*(starting|standby)", re.I)
_NO_SUCH_JOB = re.compile(r"invalid job id", re.I)
_ISO = re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?$", re.ASCII)
_NO_TIME = frozenset({"", "N/A", "NONE", "UNKNOWN", "(NULL)"})


@dataclass(frozen=True)
class QueueRow:
    """A job as squeue shows it. `state` is Slurm's own word: rows of other programs' jobs stand here too.

    start, submitted: as printed; see `start_estimate`.
    """

    job_id: int
    state: str
    reason: str
    start: str
    submitted: str
    node: str | None
    nodes: str
    partition: str
    name: str


@dataclass(frozen=True)
class EndRow:
    """A job as sacct or scontrol shows it. word: e.g. `CANCELLED by 2001`; exit_code: `status:signal`; uid: whose."""

    job_id: int
    word: str
    exit_code: str
    nodes: str
    reason: str = ""
    name: str = ""
    uid: str = ""


@dataclass(frozen=True)
class StartTest:
    """sbatch --test-only's answer. start: as printed."""

    start: str
    nodes: str


# command lines


def sbatch_argv(placement: Placement, name: str, output: str, script: str, arguments: Sequence[str]) -> list[str]:
    """`sbatch --parsable`: prints the job's id and nothing else. output may hold %j."""
    return [
        "sbatch",
        "--parsable",
        *_resources(placement),
        f"--job-name={name}",
        f"--output={output}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{WARNING_S}",
        script,
        *arguments,
    ]


def test_only_argv(placement: Placement) -> list[str]:
    """`sbatch --test-only`: when it would start; submits nothing. It reads a script from its input."""
    return ["sbatch", "--test-only", *_resources(placement)]


def _resources(p: Placement) -> list[str]:
    words = [
        f"--partition={p.partition}",
        f"--nodes={p.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={p.cpus}",
        # per node; --mem-per-gpu is broken on some sites
        f"--mem={p.memory_gib}G",
        f"--time={format_duration(p.walltime_s)}",
    ]
    if p.gpus and p.nodes > 1:
        words.append(f"--gpus-per-node={p.gpu_type}:{p.gpus // p.nodes}")
    elif p.gpus:
        words.append(f"--gpus={p.gpu_type}:{p.gpus}")
    named = {"account": p.account, "qos": p.qos, "constraint": p.constraint}
    return [*words, *(f"--{option}={value}" for option, value in named.items() if value)]


def squeue_argv() -> list[str]:
    """All of the user's own jobs, in one call: our own, and how full the partitions are with others."""
    return ["squeue", "--me", "--noheader", f"--format={QUEUE_FORMAT}"]


def held_argv() -> list[str]:
    """What the user's jobs ask for or hold, in partitions."""
    return ["squeue", "--me", "--noheader", "--states=PENDING,RUNNING,SUSPENDED,CONFIGURING", f"--Format={HELD_FORMAT}"]


def sacct_argv(job_ids: Sequence[int]) -> list[str]:
    """The accounting rows of those jobs, one a job."""
    return _sacct(f"--jobs={','.join(str(i) for i in job_ids)}")


def sacct_by_name_argv(name: str, since: datetime) -> list[str]:
    """The accounting rows of jobs of that name, ended ones too. since: aware; the cluster's zone may be behind."""
    day = since.astimezone(UTC) - timedelta(days=1)
    return _sacct(f"--name={name}", f"--starttime={day:%Y-%m-%d}")


def _sacct(*which: str) -> list[str]:
    return ["sacct", "--allocations", "--parsable2", "--noheader", f"--format={ACCOUNT_FIELDS}", *which]


def show_job_argv(job_id: int) -> list[str]:
    """What slurmctld remembers of a job (minutes after its end, usually five)."""
    return ["scontrol", "--oneliner", "show", "job", str(job_id)]


def scancel_argv(job_id: int) -> list[str]:
    """By id, never by name: a name may be anybody's. Slurm signals every process of the job, then kills."""
    return ["scancel", str(job_id)]


def ask_to_end_argv(job_id: int) -> list[str]:
    """SIGTERM to the batch script alone, which lets vLLM finish the answers under way."""
    return ["scancel", "--batch", "--signal=TERM", str(job_id)]


# what they print


def parse_job_id(text: str) -> int:
    """sbatch --parsable's `id` or `id;cluster`."""
    last = text.strip().splitlines()[-1] if text.strip() else ""
    word = last.split(";")[0]
    if not word.isascii() or not word.isdigit():
        raise SlurmOutputError("sbatch", text)
    return int(word)


def parse_queue(text: str) -> list[QueueRow]:
    """The rows of squeue_argv."""
    return [_queue_row(line) for line in text.splitlines() if line.strip()]


def _queue_row(line: str) -> QueueRow:
    parts = line.split("|", 8)
    if len(parts) != 9 or not parts[0].strip().isdigit():
        raise SlurmOutputError("squeue", line)
    identity, state, reason, start, submitted, node, nodes, partition, name = (part.strip() for part in parts)
    first = node if node and node.lower() not in ("n/a", "none", "(null)") else None
    return QueueRow(int(identity), state, reason, start, submitted, first, nodes, partition, name)


def parse_held(text: str) -> dict[str, UserUsage]:
    """The rows of held_argv, added up by partition. A job that names several partitions counts in each."""
    held: dict[str, UserUsage] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2:
            raise SlurmOutputError("squeue", line)
        runs, gpus = words[0] != "PENDING", _gpus_in(words[2] if len(words) > 2 else "")
        for partition in words[1].split(","):
            old = held.get(partition, UserUsage())
            held[partition] = UserUsage(old.submitted + 1, old.running + runs, old.gpus + (gpus if runs else 0))
    return held


def _gpus_in(tres: str) -> int:
    """`cpu=2,mem=6G,node=1,gres/gpu=2,gres/gpu:h200=2`: the plain count, else the typed ones added up."""
    plain = re.findall(r"(?:^|,)gres/gpu=(\d+)", tres, re.ASCII)
    return sum(map(int, plain or re.findall(r"(?:^|,)gres/gpu:[^=,]+=(\d+)", tres, re.ASCII)))


def parse_accounting(text: str) -> list[EndRow]:
    """The rows of sacct_argv; a requeued job has one for each run, the last run last."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|", 5)
        if len(parts) != 6 or not parts[0].isdigit():
            raise SlurmOutputError("sacct", line)
        rows.append(EndRow(int(parts[0]), parts[1], parts[2], parts[3], uid=parts[4], name=parts[5]))
    return rows


def parse_job(text: str) -> EndRow:
    """scontrol's one line about one job. Our job names hold no spaces, so words stay apart.

    The first of a name counts: comments and command lines, which may hold anything, stand at the end.
    """
    fields = dict(word.split("=", 1) for word in reversed(text.split()) if "=" in word)
    if not fields.get("JobId", "").isdigit() or "JobState" not in fields:
        raise SlurmOutputError("scontrol", text)
    found = re.search(r" Reason=(.*?) \w+=", text)
    reason = found.group(1) if found else ""
    return EndRow(
        int(fields["JobId"]),
        fields["JobState"],
        fields.get("ExitCode", ""),
        fields.get("NodeList", "").replace("(null)", ""),
        "" if reason == "None" else reason,
        fields.get("JobName", ""),
        uid=(re.findall(r"\((\d+)\)$", fields.get("UserId", "")) or [""])[0],
    )


def parse_start_test(stderr: str) -> StartTest | None:
    """`sbatch: Job 4 to start at T using 1 processors on nodes N in partition P`; None when it says no time.

    Of a job that must wait for others Slurm says the time too; 22.05 and older write `on N in partition P`.
    """
    found = re.search(r"to start at (\S+) using .* on (?:nodes? )?(\S+)", stderr)
    return StartTest(found.group(1), found.group(2)) if found else None


def order_of_start(printed: str) -> tuple[float, str]:
    """What sorts printed moments of one form by time."""
    moment = _printed_moment(printed)
    return (moment.timestamp() if moment else float("inf"), printed)


def says_no_such_job(stderr: str) -> bool:
    """Whether scontrol failed because slurmctld does not know the job (and not because it could not be asked)."""
    return bool(_NO_SUCH_JOB.search(stderr))


def may_have_submitted(stderr: str) -> bool:
    """Whether a failed sbatch may have left a job behind all the same."""
    return bool(_UNSURE.search(stderr))


def is_busy(stderr: str) -> bool:
    """Whether the same request may succeed a little later."""
    return bool(_BUSY.search(stderr))


# times


def waited_s(row: QueueRow) -> float | None:
    """Seconds from the submission to the start, by Slurm's own clock; None where it does not print both."""
    moments = [_printed_moment(text) for text in (row.submitted, row.start)]
    if moments[0] is None or moments[1] is None:
        return None
    return max(0.0, (moments[1] - moments[0]).total_seconds())


def started_at(row: QueueRow) -> datetime | None:
    """When it started, where Slurm prints seconds since 1970."""
    return _printed_moment(row.start) if row.start.isdigit() else None


def _printed_moment(text: str) -> datetime | None:
    """A moment as printed; a date has no zone, so it is only good for differences."""
    if text.isascii() and text.isdigit():
        return datetime.fromtimestamp(int(text), UTC)
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if _ISO.match(text) else None


def start_estimate(row: QueueRow, submitted_at: datetime | None) -> datetime | None:
    """When Slurm expects to start the job, None where it does not say, or says it in a form without a date.

    Slurm prints the cluster's local time without its zone. The zone is the difference between the submit time
    as printed and as we know it. Sites that set SLURM_TIME_FORMAT=relative print no dates; `%s` is understood.
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
    """The names of `node[1-2,07],gpu3`. Brackets may stand anywhere, also several of them."""
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
