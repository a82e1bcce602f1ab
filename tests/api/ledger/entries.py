"""Entries of requests and jobs for tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from bouchet_core.ledger import AccountingEntry, JobEntry, JobSpan, SpanKind
from bouchet_core.usage import UsageRecord

_NUMBERS = count()
NOON = datetime(2026, 11, 10, 12, 0, tzinfo=UTC)
MODEL = "Qwen/Qwen3-Coder-Next-FP8"


def request(at: datetime = NOON, **changes: Any) -> UsageRecord:
    """Return a request that ended then."""
    made = UsageRecord(
        at=at.timestamp(),
        key="alice",
        model=MODEL,
        session="a1f3",
        deployment="x7k2",
        endpoint="/v1/messages",
        status=200,
        error="",
        input=10,
        cached=90,
        output=5,
        first_ms=400,
        generating_ms=100,
        id=f"request-{next(_NUMBERS)}",
        job="bouchet-x7k2-1",
        request_class="main",
        agent="",
        client="claude-code",
    )
    return replace(made, **changes)


def moment(text: str) -> datetime:
    """Return a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def job(
    name: str = "bouchet-x7k2-1", *spans: tuple[str, str, str | None], version: int = 1, **changes: Any
) -> JobEntry:
    """Return a job with spans, each a kind, a start and an end."""
    facts: dict[str, Any] = {
        "job": name,
        "version": version,
        "deployment": "x7k2",
        "model": MODEL,
        "slurm_id": 4711,
        "partition": "gpu_h200",
        "account": "pi_smith",
        "gpus": 2,
        "gpu_type": "h200",
        "charge_per_gpu_hour": 300.0,
        "charge_unit": "SU",
        "submitted_at": moment(spans[0][1]) if spans else None,
        "ended_at": moment(spans[-1][2]) if spans and spans[-1][2] else None,
    }
    made = tuple(
        JobSpan(kind=SpanKind(kind), start=moment(start), end=moment(end) if end else None)
        for kind, start, end in spans
    )
    return JobEntry(**{**facts, **changes}, spans=made)


def accounting(name: str, gpu_s: float, asked_at: datetime = NOON, **changes: Any) -> AccountingEntry:
    """Return what sacct says of a job."""
    facts = {"slurm_id": 4711, "asked_at": asked_at, "state": "COMPLETED", "allocated_s": gpu_s / 2, "gpu_s": gpu_s}
    return AccountingEntry.model_validate({"job": name, **facts, **changes})
