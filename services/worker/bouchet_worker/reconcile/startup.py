"""How far vLLM's start is, and how long each step of it took, from vLLM's log and the clocks. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bouchet_core.deployments import Job, Phase

_Match = re.Match[str]

# Steps of a start, in seconds:
#   queue    from the submission to Slurm's start of the job, by Slurm's clock
#   image    until the container starts: the node is set up and the image's hash is checked
#   boot     the container, Python and vLLM's own start: what no other step accounts for
#   load     the weights, as vLLM measured it
#   compile  compilation, KV cache, warm-up and CUDA graphs, as vLLM measured it
#   smoke    the smoke test
STEPS = ("queue", "image", "boot", "load", "compile", "smoke")
READY = "ready"
# a job whose start was seen later than this after Slurm's start has no known time of its first answer
LATE_DISCOVERY = timedelta(seconds=30)

# several workers load at the same time: the slowest counts
_LOAD = re.compile(r"Model loading took [\d.]+ ?GiB(?: memory)? and ([\d.]+) s")
_WEIGHTS = re.compile(r"Loading weights took ([\d.]+) s")
_MODEL = re.compile(r"Initializing model took ([\d.]+) s")
_ENGINE = re.compile(r"init engine \(.*?\) took ([\d.]+) s")
_CONTAINER_STARTS = "bouchet: starting the container"
# vLLM prints its first line half a minute after the container has started
IMPORTING = "starting the container and importing vLLM"
MAX_STEPS = 50


@dataclass(frozen=True)
class _Sign:
    """A log line that shows a step. rank: steps with a higher rank come later in vLLM's start."""

    rank: int
    pattern: re.Pattern[str]
    describe: Callable[[_Match], str]


def _sign(rank: int, pattern: str, text: str | Callable[[_Match], str]) -> _Sign:
    return _Sign(rank, re.compile(pattern), text if callable(text) else lambda _: text)


# log lines of vLLM 0.19 and 0.32; the first pattern that matches a line counts
_SIGNS = (
    _sign(0, r"vLLM API server version|Initializing a V1 LLM engine|Resolved architecture", "vLLM is starting"),
    _sign(1, r"Loading \S+ checkpoint shards:.*\|\s*(\d+)/(\d+)", lambda m: f"loading weights, {m[1]} of {m[2]} files"),
    _sign(1, r"Auto-prefetch|Prefetching checkpoint", "loading weights from storage"),
    _sign(1, r"Starting to load model", "loading weights"),
    _sign(1, r"Model loading took ([\d.]+ ?GiB)", lambda m: f"weights loaded ({m[1]})"),
    _sign(1, r"Loading weights took ([\d.]+) seconds", lambda m: f"weights loaded in {float(m[1]):.0f} s"),
    _sign(2, r"Dynamo bytecode transform|Compiling a graph|torch\.compile (?:takes|took)|Start compiling", "compiling"),
    _sign(3, r"Available KV cache memory|GPU KV cache size|CPU KV cache size", "allocating the KV cache"),
    _sign(4, r"\bWarming up\b|DeepGEMM warmup", "warming up"),
    _sign(5, r"Captur\w+ CUDA graphs?.*?(\d+)/(\d+)", lambda m: f"capturing CUDA graphs, {m[1]} of {m[2]}"),
    _sign(5, r"Graph capturing finished", "CUDA graphs captured"),
    _sign(6, r"init engine .*took", "engine ready, starting the server"),
    _sign(7, r"Starting vLLM (?:\w+ )?server|Waiting for application startup", "starting the server"),
    _sign(8, r"Application startup complete", "server started"),
)  # fmt: skip
_RANKS = (
    ("vLLM is starting", 0), ("loading weights", 1), ("weights loaded", 1), ("compiling", 2),
    ("allocating the KV cache", 3), ("warming up", 4), ("capturing CUDA graphs", 5), ("CUDA graphs captured", 5),
    ("engine ready", 6), ("starting the server", 7), ("server started", 8),
)  # fmt: skip


def parse_progress(log: str) -> str:
    """Return the furthest step in the log of the newest run, empty when the log shows none.

    For people only: a deployment is ready when vLLM answers over HTTP, never by a line in a log.
    """
    furthest, text = -1, ""
    # progress bars rewrite their line with carriage returns
    for line in reversed(re.split(r"[\r\n]+", log)):
        if line.startswith("bouchet: "):
            # the job script's own lines come before vLLM starts, also when it starts vLLM again
            return text or (IMPORTING if line.startswith(_CONTAINER_STARTS) else line.removeprefix("bouchet: "))
        rank, found = _step_in(line)
        if rank > furthest:
            furthest, text = rank, found
    return text


def parse_steps(log: str) -> tuple[str, ...]:
    """Return the names of all steps in the log, in their order and without counts; of each start of vLLM once."""
    steps: list[str] = []
    furthest, of_this_start = -1, set[str]()
    for line in re.split(r"[\r\n]+", log):
        if line.startswith("bouchet: "):
            furthest, of_this_start = -1, set()
            name = IMPORTING if line.startswith(_CONTAINER_STARTS) else line.removeprefix("bouchet: ")
        else:
            rank, text = _step_in(line)
            name = next((label for label, _ in _RANKS if text.startswith(label)), "") if rank >= furthest else ""
            furthest = max(rank, furthest)
        if name and name not in of_this_start:
            of_this_start.add(name)
            steps.append(name)
    return tuple(steps[-MAX_STEPS:])


def all_steps(before: Sequence[str], now: Sequence[str]) -> tuple[str, ...]:
    """Return the known steps and those that the end of the log adds. now: from a log whose beginning may be missing."""
    last = before[-1] if before else ""
    behind = len(now) - tuple(reversed(now)).index(last) if last in now else 0
    return (*before, *now[behind:])[-MAX_STEPS:]


def _step_in(line: str) -> tuple[int, str]:
    for sign in _SIGNS:
        found = sign.pattern.search(line)
        if found:
            return sign.rank, sign.describe(found)
    return -1, ""


def latest_progress(before: str, now: str) -> str:
    """Return the later one of two steps: progress never goes back, except when the job script starts vLLM again."""
    ranks = _rank(before), _rank(now)
    return before if not now or -1 < ranks[1] < ranks[0] else now


def _rank(text: str) -> int:
    """Return -1 for a text that is not a step of vLLM, such as a line of the job script."""
    return next((rank for label, rank in _RANKS if text.startswith(label)), -1)


def parse_engine_times(log: str) -> dict[str, float]:
    """Return `load` and `compile` in seconds, as far as vLLM's log of the newest run shows them."""
    newest = log.rpartition(_CONTAINER_STARTS)[2]
    load = _slowest(_LOAD, newest)
    if load is None:
        parts = [seconds for seconds in (_slowest(_WEIGHTS, newest), _slowest(_MODEL, newest)) if seconds is not None]
        load = sum(parts) if parts else None
    found = {"load": load, "compile": _slowest(_ENGINE, newest)}
    return {step: round(seconds, 1) for step, seconds in found.items() if seconds is not None}


def _slowest(pattern: re.Pattern[str], log: str) -> float | None:
    return max((float(found) for found in pattern.findall(log)), default=None)


def startup_times(
    job: Job, measured: Mapping[str, float], now: datetime, slurm_start: datetime | None = None
) -> dict[str, float]:
    """Return all steps of a job that has just become ready, and their sum as `ready`.

    measured: seconds from vLLM's log and the smoke test; slurm_start: when Slurm started the job.
    Of a job discovered late, such as one whose record was lost, the time of its first answer is unknown: no sum.
    """
    started = job.since.get(Phase.STARTING, now)
    if slurm_start is not None and started - slurm_start > LATE_DISCOVERY:
        return {step: seconds for step, seconds in {**job.times, **measured}.items() if step in STEPS}
    times = {"queue": _seconds_in_queue(job, started), **job.times, **measured}
    known = sum(times.get(step, 0.0) for step in ("image", "load", "compile", "smoke"))
    times["boot"] = round(max(0.0, (now - started).total_seconds() - known), 1)
    ordered = {step: times[step] for step in STEPS if step in times}
    return {**ordered, READY: round(sum(ordered.values()), 1)}


def _seconds_in_queue(job: Job, started: datetime) -> float:
    """Return the time in the queue by our own clock, for a Slurm that does not print it."""
    return round(max(0.0, (started - job.since.get(Phase.QUEUED, started)).total_seconds()), 1)
