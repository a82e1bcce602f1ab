"""What a simulation shows: GPU hours, the share of them that served, how long requests waited, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .world import Outcome

# a request that waits longer is counted as one that had to wait
LONG_WAIT_S = 10.0


@dataclass(frozen=True)
class Row:
    """One policy, as the mean of its simulated months. Waits are of all requests together."""

    name: str
    gpu_hours: float
    serving: float
    requests: float
    waited: float
    p50_s: float
    p95_s: float
    longest_s: float
    cut: float
    gave_up: float
    jobs: float

    @property
    def waited_share(self) -> float:
        """The fraction of requests that waited more than 10 s."""
        return self.waited / self.requests if self.requests else 0.0


def measure(name: str, outcomes: Sequence[Outcome]) -> Row:
    """Return the figures of some months of one policy."""
    waits = sorted(wait for outcome in outcomes for wait in outcome.waits)
    count = len(outcomes)
    gpu_s = sum(outcome.gpu_s for outcome in outcomes)
    return Row(
        name,
        gpu_hours=gpu_s / 3600 / count,
        serving=sum(outcome.serving_gpu_s for outcome in outcomes) / gpu_s if gpu_s else 0.0,
        requests=len(waits) / count,
        waited=sum(wait > LONG_WAIT_S for wait in waits) / count,
        p50_s=_at(waits, 0.5),
        p95_s=_at(waits, 0.95),
        longest_s=waits[-1] if waits else 0.0,
        cut=sum(outcome.cut for outcome in outcomes) / count,
        gave_up=sum(outcome.gave_up for outcome in outcomes) / count,
        jobs=sum(outcome.jobs for outcome in outcomes) / count,
    )


def better_in_both(row: Row, other: Row) -> bool:
    """Tell whether a policy uses fewer GPU hours than the other and lets fewer requests wait."""
    return row.gpu_hours < other.gpu_hours and row.waited_share < other.waited_share


def table(people: int, days: int, rows: Sequence[Row]) -> str:
    """Return the figures as text, Markdown that people can read."""
    always = next((row.gpu_hours for row in rows if row.name == "always on"), 0.0)
    lines = [
        f"{people} {'person' if people == 1 else 'people'}, {days} days",
        "| policy | GPU hours | fewer | serving | jobs | requests "
        "| > 10 s | share | p50 | p95 | longest | gave up | cut |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        fewer = f"{1 - row.gpu_hours / always:.0%}" if always else ""
        lines.append(
            f"| {row.name} | {row.gpu_hours:,.0f} | {fewer} | {row.serving:.0%} | {row.jobs:.0f} | {row.requests:,.0f} "
            f"| {row.waited:,.1f} | {row.waited_share:.2%} | {row.p50_s:.0f} s | {row.p95_s:.0f} s "
            f"| {row.longest_s / 60:.0f} min | {row.gave_up:,.1f} | {row.cut:,.1f} |"
        )
    return "\n".join(lines)


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
