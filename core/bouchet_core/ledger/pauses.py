"""Time between two runs of a job that Slurm has requeued: it holds no GPU then, whatever was seen of it. Pure.

A worker sees that a run has ended when it looks next, and Slurm counts the time of the next run from 0 while it still
cleans up the one before. Only accounting has the end of an earlier run to the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from .entries import ALLOCATED, JobSpan, Pause, SpanKind

# Clocks of the cluster and of this computer differ. A pause ends where a run was seen to begin, if one was that near.
SAME_MOMENT = timedelta(seconds=60)


def with_pauses(spans: Sequence[JobSpan], pauses: Sequence[Pause]) -> list[JobSpan]:
    """Return the spans of an ended job in their order, with its pauses as time in the queue.

    Spans that last are left as they are, and so is time outside the pauses.
    """
    found = sorted(spans, key=lambda span: span.start)
    begun = _later_runs(found)
    for pause in pauses:
        aligned = _aligned(pause, begun)
        found = [piece for span in found for piece in _cut(span, aligned)]
    return found


def _later_runs(spans: Sequence[JobSpan]) -> list[datetime]:
    """Return when each run but the first was seen to begin.

    The first has no pause before it, so it is none of those that a pause may end with.
    """
    starts: list[datetime] = []
    was_allocated = False
    for span in spans:
        if span.kind in ALLOCATED and not was_allocated:
            starts.append(span.start)
        was_allocated = span.kind in ALLOCATED
    return starts[1:]


def _aligned(pause: Pause, begun: Sequence[datetime]) -> Pause:
    """Return the pause by this computer's clock, as far as its end was seen."""
    nearest = min(begun, key=lambda at: abs(at - pause.end), default=pause.end)
    shift = nearest - pause.end
    return pause.shifted(shift) if abs(shift) <= SAME_MOMENT else pause


def _cut(span: JobSpan, pause: Pause) -> Iterator[JobSpan]:
    """Yield the parts of a span before, during and after the pause."""
    if span.end is None or span.kind not in ALLOCATED or span.end <= pause.start or pause.end <= span.start:
        yield span
        return
    start, end = max(span.start, pause.start), min(span.end, pause.end)
    if span.start < start:
        yield span.model_copy(update={"end": start})
    yield JobSpan(kind=SpanKind.QUEUED, start=start, end=end)
    if end < span.end:
        yield span.model_copy(update={"start": end})
