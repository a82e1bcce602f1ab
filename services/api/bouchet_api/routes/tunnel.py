"""/v1/tunnel: the SSH connection, its prompts (Duo, passphrase) and its host keys."""

from __future__ import annotations

from typing import Annotated

from bouchet_core.tunnel import HostKeyForgetRequest, HostKeyTrustRequest, PromptAnswer, TunnelStatus
from fastapi import APIRouter, Body
from pydantic import BaseModel

from bouchet_api.dependencies import StateDep
from bouchet_api.openapi import examples

router = APIRouter(prefix="/v1/tunnel", tags=["tunnel"])


class Accepted(BaseModel):
    """The gateway has accepted the request; GET /v1/tunnel shows its progress."""

    status: str = "accepted"


@router.get("")
def get_tunnel(state: StateDep) -> TunnelStatus:
    """Return the state of the SSH connection, and the open prompt if there is one."""
    return state.tunnel()


@router.post("/answer", status_code=202)
def answer_prompt(
    state: StateDep, body: Annotated[PromptAnswer, Body(openapi_examples=examples.PROMPT_ANSWER)]
) -> Accepted:
    """Answer the open prompt; 409 when this prompt is no longer open."""
    state.gateway.answer(body.prompt_id, body.responses)
    return Accepted()


@router.post("/trust", status_code=202)
def trust_host_key(
    state: StateDep, body: Annotated[HostKeyTrustRequest, Body(openapi_examples=examples.TRUST)]
) -> Accepted:
    """Accept the host key that GET /v1/tunnel shows as `host_key`; 409 when it differs or replaces a known key."""
    state.gateway.trust(body.fingerprint)
    return Accepted()


@router.post("/forget", status_code=202)
def forget_host_keys(
    state: StateDep, body: Annotated[HostKeyForgetRequest, Body(openapi_examples=examples.FORGET)]
) -> Accepted:
    """Forget the host keys accepted for a host; those in ~/.ssh/known_hosts stay."""
    state.gateway.forget(body.place)
    return Accepted()


@router.post("/connect", status_code=202)
def connect_now(state: StateDep) -> Accepted:
    """Connect now instead of after the pause between tries."""
    state.gateway.connect()
    return Accepted()
