"""/v1/usage: what was used, by whom."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from bouchet_core.store.usage import SUMS_KEPT_S, bucket_of
from bouchet_core.usage import UsageBy, UsageSummary
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from bouchet_api.dependencies import PartsDep
from bouchet_api.spans import PATTERN, parse_span

router = APIRouter(prefix="/v1/usage", tags=["usage"])


class Usage(BaseModel):
    """Sums since a moment, the largest first. Sums are kept for 31 days."""

    by: UsageBy
    since: datetime = Field(description="where counting began: the quarter of an hour in which the span begins")
    lines: list[UsageSummary]


@router.get("")
def get_usage(
    parts: PartsDep,
    by: Annotated[UsageBy, Query(description="what to sum up for")] = UsageBy.KEY,
    since: Annotated[str, Query(pattern=PATTERN, description="how far back: 15m, 24h, 7d")] = "24h",
) -> Usage:
    """Requests, tokens, speed and errors for each key, model, session (a hash) or deployment."""
    now = datetime.now(UTC).timestamp()
    begin = max(now - parse_span(since).total_seconds(), now - SUMS_KEPT_S)
    lines = parts.store.usage.lines(by, begin, now)
    return Usage(by=by, since=datetime.fromtimestamp(bucket_of(begin), UTC), lines=lines)
