"""How long a job did what, measured as its record changes. Pure: the times are the record's own, not those of a poll.

A record keeps when each phase was last entered. So a worker that was away for an hour adds the same spans as one that
watched, as long as the job was not requeued meanwhile: phases change only where a worker changes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta

from pydantic import ConfigDict, Field

from bouchet_core.deployments import Deployment, Job, Phase
from bouchet_core.values import FrozenModel

from .entries import JobEntry, JobSpan, SpanKind

# a ready job without an open request counts as idle from its last answer on, if none comes for this long
IDLE_AFTER = timedelta(seconds=60)
KINDS = {
    Phase.SUBMITTING: SpanKind.QUEUED,
    Phase.QUEUED: SpanKind.QUEUED,
    Phase.STARTING: SpanKind.STARTING,
    Phase.READY: SpanKind.SERVING,
    Phase.DRAINING: SpanKind.DRAINING,
}

_ORDER = {phase: number for number, phase in enumerate(Phase)}


class JobMeasure(FrozenModel):
    """What is known of a job's time so far, kept between two steps. `open`: the span that lasts."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    version: int = 0
    seen: Mapping[Phase, datetime] = Field(default_factory=dict, description="the phase changes that are in spans")
    started_at: datetime | None = None
    submitted_at: datetime | None = None
    open: JobSpan | None = None
    ended: bool = False
    digest: str = Field(default="", description="of the last entry's other facts")


def advance(
    measure: JobMeasure,
    record: Deployment,
    job: Job,
    charge: tuple[float | None, str],
    last_use: datetime | None,
    now: datetime,
) -> tuple[JobMeasure, JobEntry | None]:
    """Return the measure with what has happened since, and the entry to append, None where nothing has changed.

    charge: units an hour of one GPU, and their name. last_use: when the job last had an open request, `now` while it
    has one, None where that is not known.
    """
    if measure.ended:
        return measure, None
    spans, open_span = _new_spans(measure, job)
    changed_idle, open_span = _with_idle(open_span, job, last_use, now)
    spans += changed_idle
    ended_at = job.since.get(Phase.ENDED) if not job.is_live else None
    started = [span.start for span in spans if span.kind is not SpanKind.QUEUED]
    next_measure = measure.model_copy(
        update={
            "seen": dict(job.since),
            "submitted_at": measure.submitted_at or min(job.since.values(), default=None),
            "started_at": measure.started_at or min(started, default=None),
            "open": open_span,
            "ended": not job.is_live,
        }
    )
    entry = _entry_of(next_measure, record, job, charge, tuple(spans), ended_at)
    facts = entry.model_copy(update={"version": 0, "spans": ()}).model_dump_json()
    digest = hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()
    if not spans and digest == measure.digest:
        return measure, None
    # a clock, so that a job that is measured again from the beginning is not taken for an older one
    version = max(measure.version + 1, int(now.timestamp()))
    return (
        next_measure.model_copy(update={"version": version, "digest": digest}),
        entry.model_copy(update={"version": version}),
    )


def _new_spans(measure: JobMeasure, job: Job) -> tuple[list[JobSpan], JobSpan | None]:
    """Return the spans that have begun or ended with phase changes since the last step, and the one that lasts."""
    new = [(phase, at) for phase, at in job.since.items() if measure.seen.get(phase) != at]
    # of changes in the same moment the present phase is the last
    changes = sorted(new, key=lambda change: (change[1], change[0] is job.phase, _ORDER[change[0]]))
    spans: list[JobSpan] = []
    last = measure.open
    for phase, at in changes:
        kind = KINDS.get(phase)
        if last is not None and kind is last.kind:
            continue
        if last is not None:
            spans.append(last.model_copy(update={"end": max(at, last.start)}))
        last = JobSpan(kind=kind, start=at) if kind is not None else None
        if last is not None:
            spans.append(last)
    return [span for index, span in enumerate(spans) if not _is_replaced(span, spans[index + 1 :])], last


def _is_replaced(span: JobSpan, later: list[JobSpan]) -> bool:
    return any(other.start == span.start for other in later)


def _with_idle(
    last: JobSpan | None, job: Job, last_use: datetime | None, now: datetime
) -> tuple[list[JobSpan], JobSpan | None]:
    """Return the spans that change because a ready job has become idle or busy, and the one that lasts then."""
    if last is None or job.phase is not Phase.READY or last_use is None:
        return [], last
    if last.kind is SpanKind.SERVING and now - max(last_use, last.start) > IDLE_AFTER:
        at, kind = max(last_use, last.start), SpanKind.IDLE
    elif last.kind is SpanKind.IDLE and last_use > last.start:
        at, kind = last_use, SpanKind.SERVING
    else:
        return [], last
    begun = JobSpan(kind=kind, start=at)
    if at == last.start:
        return [begun], begun
    return [last.model_copy(update={"end": at}), begun], begun


def _entry_of(
    measure: JobMeasure,
    record: Deployment,
    job: Job,
    charge: tuple[float | None, str],
    spans: tuple[JobSpan, ...],
    ended_at: datetime | None,
) -> JobEntry:
    placement = job.placement
    return JobEntry(
        job=job.name,
        deployment=record.id,
        model=record.model,
        alias=record.names[0] if record.names else "",
        slurm_id=job.slurm_id,
        partition=placement.partition if placement else "",
        account=(placement.account or "") if placement else "",
        gpus=placement.held_gpus if placement else 0,
        gpu_type=placement.gpu_type if placement else "",
        nodes=placement.nodes if placement else 1,
        charge_per_gpu_hour=charge[0],
        charge_unit=charge[1] if charge[0] is not None else "",
        submitted_at=measure.submitted_at,
        started_at=measure.started_at,
        ended_at=ended_at,
        ending=str(job.ending or ""),
        spans=spans,
    )
