"""A measured figure beside what was promised."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """`target` is the most it may be (the least, with `at_least`), None when it is only reported.

    `note` says how it came about.
    """

    title: str
    value: float
    unit: str
    target: float | None = None
    note: str = ""
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Tell whether the target is met."""
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target


def spread(seconds: Sequence[float]) -> str:
    """Format median and 95th percentile in ms."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return f"p50 {statistics.median(ordered) * 1000:.1f} ms, p95 {p95 * 1000:.1f} ms, n={len(ordered)}"


def render(figures: Sequence[Figure]) -> str:
    """Render a table."""
    width = max(len(figure.title) for figure in figures)
    lines = [f"{'figure':{width}}  {'measured':>12}  {'target':>12}"]
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        target = f"{sign} {figure.target:g} {figure.unit}" if figure.target is not None else ""
        mark = "" if figure.is_met else "  MISSED"
        value = f"{figure.value:.1f} {figure.unit}"
        lines.append(f"{figure.title:{width}}  {value:>12}  {target:>12}{mark}")
        if figure.note:
            lines.append(f"{'':{width}}  {figure.note}")
    return "\n".join(lines)
