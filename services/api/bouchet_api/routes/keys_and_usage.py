"""/v1/keys and /v1/usage: API keys for other people (for the proxy, not this API), and what was used with each."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated, Any

from bouchet_core.keys import DASHBOARD, KEY_PREFIX, OWNER, SHOWN_END, ApiKey, KeyName, PerMinute, new_secret, sha256_of
from bouchet_core.usage import UsageBy, UsageSummary
from bouchet_core.values import TIME_SPAN_PATTERN, TimeSpan, parse_time_span
from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import BaseModel, Field, field_validator

from bouchet_api.dependencies import StateDep
from bouchet_api.ledger.periods import UnixRange
from bouchet_api.ledger.request_views import summarize_names, summarize_sessions
from bouchet_api.ledger.tables import DAY_S, QUARTER_S
from bouchet_api.openapi import examples

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1")

CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "content": {"application/json": {"example": examples.NEW_KEY}},
        "description": "created; the key is in this response only",
    }
}


class ApiKeyRequest(BaseModel):
    """Name and limits of a new key; null means no limit."""

    model_config = {"extra": "forbid"}

    name: KeyName
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = Field(None, description="uncached prompt tokens plus output tokens")
    expires_in: TimeSpan | None = Field(None, description="such as 12h, 30d or 8w; by default the key never expires")

    @field_validator("name")
    @classmethod
    def _is_not_reserved(cls, name: str) -> str:
        if name == OWNER:
            raise ValueError(f"{OWNER!r} is the name of the key in .env; choose another")
        if name == DASHBOARD:
            raise ValueError(f"{DASHBOARD!r} is the name under which the dashboard chats; choose another")
        return name


class ApiKeyInfo(BaseModel):
    """A key without its secret."""

    name: str
    shown: str = Field(description="first and last characters of the key")
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: datetime | None = Field(description="null only for a revoked key whose record could not be read")
    expires_at: datetime | None
    expired: bool


class NewApiKey(ApiKeyInfo):
    """A key that was just created."""

    key: str = Field(description="the key; only its hash is stored, so it cannot be read again")


class ApiKeyList(BaseModel):
    """All keys except the owner's, oldest first."""

    keys: list[ApiKeyInfo]


class UsageReport(BaseModel):
    """Sums of the ledger since a moment, largest first; those of sessions reach back one day."""

    by: UsageBy
    since: datetime = Field(description="start of the sums: the quarter of an hour in which the time span begins")
    lines: list[UsageSummary]


@router.post("/keys", status_code=201, responses=CREATED, tags=["keys"])
def add_key(
    state: StateDep, response: Response, request: Annotated[ApiKeyRequest, Body(openapi_examples=examples.KEY_REQUEST)]
) -> NewApiKey:
    """Create a key for the proxy; it is valid at once."""
    secret, now = new_secret(), datetime.now(UTC)
    key = ApiKey(
        name=request.name,
        sha256=sha256_of(secret),
        ending=secret[-SHOWN_END:],
        requests_per_minute=request.requests_per_minute,
        tokens_per_minute=request.tokens_per_minute,
        created_at=now,
        expires_at=now + parse_time_span(request.expires_in) if request.expires_in else None,
    )
    state.store.api_keys.add(key)
    log.info("key %s: created", key.name)
    response.headers["Cache-Control"] = "no-store"
    return NewApiKey(**_key_info(key, now).model_dump(), key=secret)


@router.get("/keys", tags=["keys"])
def list_keys(state: StateDep) -> ApiKeyList:
    """List all keys with their limits."""
    now = datetime.now(UTC)
    return ApiKeyList(keys=[_key_info(key, now) for key in state.store.api_keys.all()])


@router.delete("/keys/{name}", tags=["keys"])
def revoke_key(state: StateDep, name: Annotated[str, Path(max_length=100)]) -> ApiKeyInfo:
    """Revoke a key; the proxy refuses it within two seconds."""
    revoked = state.store.api_keys.revoke(name)
    log.info("key %s: revoked", name)
    return _unreadable_key_info(name) if revoked is None else _key_info(revoked, datetime.now(UTC))


@router.get("/usage", tags=["usage"])
def get_usage(
    state: StateDep,
    by: Annotated[UsageBy, Query(description="what to group by")] = UsageBy.KEY,
    since: Annotated[
        str, Query(pattern=TIME_SPAN_PATTERN, description="time span back from now: 15m, 24h, 7d")
    ] = "24h",
) -> UsageReport:
    """Return requests, tokens, speed and errors for each key, model, session (a hash) or deployment."""
    now = int(datetime.now(UTC).timestamp())
    begin = max(now - int(parse_time_span(since).total_seconds()), now - DAY_S if by is UsageBy.SESSION else 0)
    # the quarter that has begun counts, and a proxy whose clock is ahead
    span = UnixRange(begin // QUARTER_S * QUARTER_S, now + DAY_S)
    with state.ledger.database.read() as connection:
        lines = summarize_sessions(connection, span) if by is UsageBy.SESSION else summarize_names(connection, by, span)
    return UsageReport(by=by, since=datetime.fromtimestamp(span.start, UTC), lines=lines)


def _key_info(key: ApiKey, now: datetime) -> ApiKeyInfo:
    return ApiKeyInfo(
        name=key.name,
        shown=f"{KEY_PREFIX}...{key.ending}",
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        created_at=key.created_at,
        expires_at=key.expires_at,
        expired=not key.opens_at(now),
    )


def _unreadable_key_info(name: str) -> ApiKeyInfo:
    return ApiKeyInfo(
        name=name,
        shown=f"{KEY_PREFIX}...",
        requests_per_minute=None,
        tokens_per_minute=None,
        created_at=None,
        expires_at=None,
        expired=True,
    )
