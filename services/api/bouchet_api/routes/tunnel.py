"""/v1/tunnel: the one SSH connection, and the prompts (Duo, passphrase) that a person answers."""

from __future__ import annotations

from typing import Annotated

from bouchet_core.tunnel import TunnelStatus
from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bouchet_api.dependencies import PartsDep
from bouchet_api.openapi import examples

router = APIRouter(prefix="/v1/tunnel", tags=["tunnel"])


class Answer(BaseModel):
    """One response for every question of the open prompt. They go to the SSH server and are kept nowhere."""

    model_config = ConfigDict(extra="forbid")

    prompt_id: str = Field(min_length=1, max_length=100)
    responses: list[Annotated[str, StringConstraints(max_length=1024)]] = Field(max_length=16, repr=False)


class Trust(BaseModel):
    """The fingerprint of the host key that a person has compared."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str = Field(min_length=1, max_length=200)


class Forget(BaseModel):
    """A host, as `host_key.place` writes it."""

    model_config = ConfigDict(extra="forbid")

    place: str = Field(min_length=1, max_length=300)


class Accepted(BaseModel):
    """The gateway is on it; GET /v1/tunnel shows how it goes."""

    status: str = "accepted"


@router.get("")
def show(parts: PartsDep) -> TunnelStatus:
    """What the tunnel is doing now, and the prompt that waits, if any."""
    return parts.gateway.status()


@router.post("/answer", status_code=202)
def answer(parts: PartsDep, body: Annotated[Answer, Body(openapi_examples=examples.PROMPT_ANSWER)]) -> Accepted:
    """Answers the open prompt; 409 when it is no longer the open one."""
    parts.gateway.answer(body.prompt_id, body.responses)
    return Accepted()


@router.post("/trust", status_code=202)
def trust(parts: PartsDep, body: Annotated[Trust, Body(openapi_examples=examples.TRUST)]) -> Accepted:
    """Accepts the host key that GET /v1/tunnel shows as `host_key`; 409 when it is another one, or has changed."""
    parts.gateway.trust(body.fingerprint)
    return Accepted()


@router.post("/forget", status_code=202)
def forget(parts: PartsDep, body: Annotated[Forget, Body(openapi_examples=examples.FORGET)]) -> Accepted:
    """Forgets the host keys that were accepted for a host; those of ~/.ssh/known_hosts are not touched."""
    parts.gateway.forget(body.place)
    return Accepted()


@router.post("/connect", status_code=202)
def connect(parts: PartsDep) -> Accepted:
    """Tries to connect now instead of after the pause."""
    parts.gateway.connect()
    return Accepted()
