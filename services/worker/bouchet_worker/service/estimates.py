"""What a start and an answer are likely to take, from what was measured. Pure; durations are seconds.

An estimate has two values: what is likely, for the times that people are shown, and what is safe, for renewals: a
successor that is early costs the overlap of two jobs, one that is late costs everybody's wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from bouchet_core.deployments import Deployment, Phase

# what nothing is known about
UNKNOWN_QUEUE_S = 900.0
UNKNOWN_STARTUP_S = 300.0
# seconds that a start takes for each GiB of weights where no start was measured: a slow parallel file system
LOAD_S_PER_GIB = 1.0
# tokens a second of one answer where none was measured
UNKNOWN_TOKENS_PER_S = 40.0
LONGEST_ANSWER_S = 3600.0
# how old Slurm's estimate may be: each one has it plan the whole queue
QUEUE_AGE_S, LONGEST_QUEUE_AGE_S = 60.0, 600.0
# ... and which part of the time that is left to the jobs that serve
QUEUE_AGE_SHARE = 0.05
# as many of the last waits or starts count
RECENT = 20
# so many waits are needed before they outweigh what Slurm says
ENOUGH = 5


@dataclass(frozen=True)
class QueueWait:
    """How long one earlier job waited in a partition; the newest is the last of a sequence."""

    partition: str
    gpus: int
    waited_s: float


@dataclass(frozen=True)
class Estimate:
    """An expected duration. source: where it comes from, for people."""

    likely_s: float
    safe_s: float
    source: str


def queue_estimate(
    partition: str,
    gpus: int,
    history: Sequence[QueueWait],
    *,
    slurm_start: datetime | None = None,
    now: datetime,
) -> Estimate:
    """Return how long a new job would wait.

    slurm_start: the answer of `sbatch --test-only`, or of `squeue --start` for a job like it. Slurm expects every
    running job to use its whole walltime and foresees no later job of a higher priority: it errs both ways, so a
    history of waits in this partition counts as well.
    """
    waits = [wait.waited_s for wait in history if wait.partition == partition and wait.gpus >= gpus]
    waits = waits or [wait.waited_s for wait in history if wait.partition == partition]
    waits = [max(0.0, waited) for waited in waits[-RECENT:]]
    slurm_s = None if slurm_start is None else max(0.0, (slurm_start - now).total_seconds())
    if len(waits) >= ENOUGH:
        likely, safe = quantile(waits, 0.5), quantile(waits, 0.9)
        source = f"the last {len(waits)} waits in {partition}"
        if slurm_s is None:
            return Estimate(likely, safe, source)
        # Slurm's answer for right now, within what was seen
        return Estimate(min(slurm_s, safe), max(min(slurm_s, max(waits)), safe), f"Slurm and {source}")
    if slurm_s is not None:
        safe = max(2 * slurm_s, *waits, 60.0) if waits else max(2 * slurm_s, UNKNOWN_QUEUE_S / 3)
        return Estimate(slurm_s, safe, "Slurm's estimate")
    if waits:
        return Estimate(quantile(waits, 0.5), max(*waits, UNKNOWN_QUEUE_S), f"{len(waits)} waits in {partition}")
    return Estimate(UNKNOWN_QUEUE_S, UNKNOWN_QUEUE_S, "no wait was measured yet")


def queue_estimate_age_s(record: Deployment, now: datetime) -> float:
    """Return how old Slurm's estimate of the queue may be: the older, the longer no next job is needed."""
    jobs, replicas = record.live_jobs, record.policy.replicas
    ends = [job.deadline for job in jobs if job.phase is Phase.READY and job.leaving_since is None]
    if not ends or len(ends) < len(jobs) or replicas.high > replicas.low:
        return QUEUE_AGE_S
    left_s = min((end - now).total_seconds() if end is not None else 0.0 for end in ends)
    return min(max(QUEUE_AGE_S, QUEUE_AGE_SHARE * left_s), LONGEST_QUEUE_AGE_S)


def startup_estimate(starts: Sequence[float], weights_gib: float | None = None) -> Estimate:
    """Return how long a job takes from its start to ready. starts: of this model and image, the newest last."""
    measured = [max(0.0, start) for start in starts[-RECENT:]]
    if not measured:
        guess = UNKNOWN_STARTUP_S + LOAD_S_PER_GIB * (weights_gib or 0.0)
        return Estimate(guess, guess, "no start was measured yet")
    # the first start compiles kernels, later ones find them: the newest say more
    newest = measured[-ENOUGH:]
    source = "the last start" if len(newest) == 1 else f"the last {len(newest)} starts"
    return Estimate(quantile(newest, 0.5), max(newest), source)


def answer_estimate(max_output: int, tokens_per_s: Sequence[float], *, longest_seen_s: float = 0.0) -> Estimate:
    """Return how long the longest answer may take: all tokens that it may have, at the slowest measured rate."""
    rates = [rate for rate in tokens_per_s[-RECENT:] if rate > 0]
    slowest = min(rates, default=UNKNOWN_TOKENS_PER_S)
    safe = min(max(max_output / slowest, longest_seen_s), LONGEST_ANSWER_S)
    likely = min(longest_seen_s or max_output / quantile(rates or [slowest], 0.5), safe)
    return Estimate(likely, safe, f"{max_output} tokens at {slowest:.0f} tok/s")


def backlog_s(waiting: int, finished_per_s: float, arriving_per_s: float) -> float | None:
    """Return when the waiting requests are done at the present rates; None: they only get more."""
    if waiting <= 0:
        return 0.0
    drained = finished_per_s - arriving_per_s
    return waiting / drained if drained > 0 else None


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]
