"""A measured figure beside what was promised."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """`promise` is the most it may be (the least, with `at_least`), None when it is only reported.

    `note` says how it came about.
    """

    title: str
    value: float
    unit: str
    promise: float | None = None
    note: str = ""
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        if self.promise is None:
            return True
        return self.value >= self.promise if self.at_least else self.value <= self.promise


def spread(seconds: Sequence[float]) -> str:
    """Median and 95th percentile in ms."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return f"p50 {statistics.median(ordered) * 1000:.1f} ms, p95 {p95 * 1000:.1f} ms, n={len(ordered)}"


def render(figures: Sequence[Figure]) -> str:
    """A table for people."""
    width = max(len(figure.title) for figure in figures)
    lines = [f"{'figure':{width}}  {'measured':>12}  {'promise':>12}"]
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        promise = f"{sign} {figure.promise:g} {figure.unit}" if figure.promise is not None else ""
        mark = "" if figure.kept else "  NOT KEPT"
        value = f"{figure.value:.1f} {figure.unit}"
        lines.append(f"{figure.title:{width}}  {value:>12}  {promise:>12}{mark}")
        if figure.note:
            lines.append(f"{'':{width}}  {figure.note}")
    return "\n".join(lines)
