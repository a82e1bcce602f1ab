"""Where the time of a start went, in seconds: queue, image, boot, load, compile, and ready for all of them. Pure.

queue    from the submission to Slurm's start, by Slurm's clock
image    from there until the container is started: the node is set up, the image's hash checked
load     the weights, as vLLM measured it
compile  compilation, graphs, KV cache and warm-up, as vLLM measured it
boot     the rest until it answers: the container, Python, vLLM's own start
smoke    its smoke test
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta

from bouchet_core.deployments import Job, Phase

STEPS = ("queue", "image", "boot", "load", "compile", "smoke")
READY = "ready"
FOUND_LATE = timedelta(seconds=30)

# several workers load at the same time: the slowest counts
_LOAD = re.compile(r"Model loading took [\d.]+ ?GiB(?: memory)? and ([\d.]+) s")
_WEIGHTS = re.compile(r"Loading weights took ([\d.]+) s")
_MODEL = re.compile(r"Initializing model took ([\d.]+) s")
_ENGINE = re.compile(r"init engine \(.*?\) took ([\d.]+) s")


def engine_times(log: str) -> dict[str, float]:
    """load and compile, as far as vLLM's log of the newest run says them."""
    newest = log.rpartition("bouchet: starting the container")[2]
    load = _slowest(_LOAD, newest)
    if load is None:
        parts = [seconds for seconds in (_slowest(_WEIGHTS, newest), _slowest(_MODEL, newest)) if seconds is not None]
        load = sum(parts) if parts else None
    found = {"load": load, "compile": _slowest(_ENGINE, newest)}
    return {step: round(seconds, 1) for step, seconds in found.items() if seconds is not None}


def _slowest(pattern: re.Pattern[str], log: str) -> float | None:
    return max((float(found) for found in pattern.findall(log)), default=None)


def at_ready(job: Job, took: Mapping[str, float], now: datetime, began: datetime | None = None) -> dict[str, float]:
    """All steps of a job that answers from now on. took: what the log said; began: when Slurm started it.

    Of a job that was found only later, such as one whose record was lost, nobody knows when it first answered.
    """
    started = job.since.get(Phase.STARTING, now)
    if began is not None and started - began > FOUND_LATE:
        return {step: seconds for step, seconds in {**job.times, **took}.items() if step in STEPS}
    times = {"queue": _since_queued(job, started), **job.times, **took}
    known = sum(times.get(step, 0.0) for step in ("image", "load", "compile", "smoke"))
    times["boot"] = round(max(0.0, (now - started).total_seconds() - known), 1)
    ordered = {step: times[step] for step in STEPS if step in times}
    return {**ordered, READY: round(sum(ordered.values()), 1)}


def _since_queued(job: Job, started: datetime) -> float:
    """Seconds in the queue by our own clock, for a Slurm that did not say."""
    return round(max(0.0, (started - job.since.get(Phase.QUEUED, started)).total_seconds()), 1)
