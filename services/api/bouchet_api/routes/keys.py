"""/v1/keys: keys with which others may use the proxy (not this API)."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated, Any

from bouchet_core.api_keys import KEY_PREFIX, OWNER, SHOWN_END, ApiKey, KeyName, PerMinute, new_secret, sha256_of
from fastapi import APIRouter, Body, Path, Response
from pydantic import BaseModel, Field, field_validator

from bouchet_api.dependencies import PartsDep
from bouchet_api.openapi import examples
from bouchet_api.spans import Span, parse_span

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/keys", tags=["keys"])

MADE: dict[int | str, dict[str, Any]] = {
    201: {"content": {"application/json": {"example": examples.NEW_KEY}}, "description": "made; shown this once"}
}


class KeyRequest(BaseModel):
    """Who gets a key, and how much they may ask for. None is no limit."""

    model_config = {"extra": "forbid"}

    name: KeyName
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = Field(None, description="prompt tokens not in the cache, and output")
    expires_in: Span | None = Field(None, description="such as 12h, 30d or 8w; never by default")

    @field_validator("name")
    @classmethod
    def _is_not_the_owners(cls, name: str) -> str:
        if name == OWNER:
            raise ValueError(f"{OWNER!r} is the name of the key in .env; take another")
        return name


class Key(BaseModel):
    """A key as it is known after it was made: not the key itself."""

    name: str
    shown: str = Field(description="how the key begins and ends")
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    expired: bool


class NewKey(Key):
    """A key just made."""

    key: str = Field(description="the key; only its hash is kept, so this is the one time that it can be read")


class Keys(BaseModel):
    """All keys but the owner's, the oldest first."""

    keys: list[Key]


@router.post("", status_code=201, responses=MADE)
def add_key(
    parts: PartsDep, response: Response, request: Annotated[KeyRequest, Body(openapi_examples=examples.KEY)]
) -> NewKey:
    """Makes a key. It opens the proxy at once."""
    secret, now = new_secret(), datetime.now(UTC)
    key = ApiKey(
        name=request.name,
        sha256=sha256_of(secret),
        ending=secret[-SHOWN_END:],
        requests_per_minute=request.requests_per_minute,
        tokens_per_minute=request.tokens_per_minute,
        created_at=now,
        expires_at=now + parse_span(request.expires_in) if request.expires_in else None,
    )
    parts.store.api_keys.add(key)
    log.info("key %s made", key.name)
    response.headers["Cache-Control"] = "no-store"
    return NewKey(**_key(key, now).model_dump(), key=secret)


@router.get("")
def list_keys(parts: PartsDep) -> Keys:
    """All keys, and what they may ask for."""
    now = datetime.now(UTC)
    return Keys(keys=[_key(key, now) for key in parts.store.api_keys.all()])


@router.delete("/{name}")
def revoke_key(parts: PartsDep, name: Annotated[str, Path(max_length=100)]) -> Key:
    """Makes a key worthless, within two seconds."""
    revoked = parts.store.api_keys.revoke(name)
    log.info("key %s revoked", name)
    return _key(revoked, datetime.now(UTC))


def _key(key: ApiKey, now: datetime) -> Key:
    return Key(
        name=key.name,
        shown=f"{KEY_PREFIX}...{key.ending}",
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        created_at=key.created_at,
        expires_at=key.expires_at,
        expired=not key.opens_at(now),
    )
