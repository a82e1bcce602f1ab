"""The SSH connection as other packages see it: its state, its login prompts, and where slots lead.

Slot targets are kept in Redis, which more services can write to than the worker. Without the worker's signature any of
them could have the gateway connect to any host and port that the login node reaches.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import posixpath
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from .deployments.attached import node_problem, port_problem
from .values import FrozenModel

# what jobs listen on, as in remote/job/network.py
JOB_PORTS = range(20000, 32000)
JOB_SOCKET = "vllm.sock"
# for longer than this the gateway leads no new connection to where a slot led before
SLOT_SETTLED_S = 2.2
MAX_ANSWERS, MAX_ANSWER_CHARACTERS = 16, 1024


class SlotTarget(FrozenModel):
    """Where a gateway slot leads: a node, and a port or a UNIX socket there.

    loopback: the port is open on the node's 127.0.0.1 only. attached: a server that runs without a job of ours.
    signature: see TargetSigner.
    """

    node: str
    port: int | None = None
    socket: str | None = None
    loopback: bool = False
    deployment: str
    attached: bool = False
    signature: str = ""

    @property
    def on_node(self) -> bool:
        """Whether only programs on the node itself can connect to it."""
        return self.loopback or self.socket is not None

    @property
    def place(self) -> str:
        """The target as messages name it: `node:port`, or `node:socket`."""
        return f"{self.node}:{self.socket or self.port}"


class TargetSigner:
    """Signs and checks slot targets, with a key derived from the worker's token, which worker and gateway hold."""

    def __init__(self, worker_token: str) -> None:
        self._key = hmac.new(worker_token.encode(), b"slot target", hashlib.sha256).digest()

    def signed(self, slot: int, target: SlotTarget) -> SlotTarget:
        """Return the target with the signature for that slot: 64 hex characters, HMAC-SHA256 of all other fields."""
        return target.model_copy(update={"signature": self._signature(slot, target)})

    def problem(self, slot: int, target: SlotTarget) -> str:
        """Return why the target must not be used for that slot; empty when it may."""
        if not hmac.compare_digest(target.signature.encode("utf-8", "replace"), self._signature(slot, target).encode()):
            return "it has no valid signature of the worker"
        if target.attached:
            return _attached_problem(target)
        if target.socket is not None:
            return "" if posixpath.basename(target.socket) == JOB_SOCKET else f"its socket is not named {JOB_SOCKET}"
        if target.port not in JOB_PORTS:
            return f"its port is not one of {JOB_PORTS.start}-{JOB_PORTS.stop - 1}, from which jobs choose"
        return ""

    def _signature(self, slot: int, target: SlotTarget) -> str:
        fields = [slot, target.node, target.port, target.socket, target.loopback, target.deployment]
        fields += ["attached"] if target.attached else []
        return hmac.new(self._key, json.dumps(fields).encode(), hashlib.sha256).hexdigest()


def _attached_problem(target: SlotTarget) -> str:
    if target.on_node:
        return "an attached server is reached over the network"
    return node_problem(target.node) or port_problem(target.port)


class TunnelState(StrEnum):
    """What the one SSH connection is doing."""

    DOWN = "down"
    CONNECTING = "connecting"
    NEEDS_HUMAN = "needs_human"
    UP = "up"
    REFUSED = "refused"


class LoginPrompt(FrozenModel):
    """A prompt of the SSH server (Duo menu, passcode) or of the key; answered by a person, never stored."""

    id: str
    title: str = ""
    questions: tuple[str, ...]
    echo: tuple[bool, ...]
    host: str = Field(
        default="", description="the host that asks: the login node or a jump host; empty: the key itself"
    )


class PromptAnswer(FrozenModel):
    """One response for every question of the open prompt. They are sent to the SSH server and never stored."""

    model_config = ConfigDict(hide_input_in_errors=True)

    prompt_id: str = Field(min_length=1, max_length=100)
    responses: list[Annotated[str, StringConstraints(max_length=MAX_ANSWER_CHARACTERS)]] = Field(
        max_length=MAX_ANSWERS, repr=False
    )


class HostKey(FrozenModel):
    """A host key that the login node presented and that is not trusted. `changed`: another one was known."""

    place: str = Field(description="the host as known_hosts writes it, e.g. `[login.example.org]:2222`")
    algorithm: str
    fingerprint: str = Field(description="SHA256:..., as ssh prints it")
    changed: bool = False


class HostKeyTrustRequest(FrozenModel):
    """The fingerprint of the host key to accept, compared with the one that the site publishes."""

    fingerprint: str = Field(min_length=1, max_length=200)


class HostKeyForgetRequest(FrozenModel):
    """A host, as `host_key.place` writes it."""

    place: str = Field(min_length=1, max_length=300)


class TunnelEvent(FrozenModel):
    """One change of the SSH connection. GET /v1/tunnel has the prompt or host key that it waits for; events do not."""

    state: TunnelState
    host: str
    detail: str = ""
    waits_for: Literal["", "prompt", "host_key"] = Field(
        default="", description="a person: to answer the login prompt, or to accept a host key"
    )
    at: datetime


class TunnelStatus(FrozenModel):
    """The state of the tunnel."""

    state: TunnelState
    host: str
    since: datetime
    detail: str = ""
    prompt: LoginPrompt | None = None
    host_key: HostKey | None = Field(
        default=None, description="waits for `bouchet tunnel --trust`, unless it has changed"
    )
    connections: int = Field(default=0, description="SSH connections open now: 0 or 1")
    reconnects: int = 0
    open_channels: int = 0
    waiting_requests: int = Field(
        default=0, description="requests and answers under way that the proxy holds until the tunnel leads to their job"
    )
    nodes: Mapping[str, str] = Field(
        default_factory=dict,
        description="compute nodes that forwards reach over ssh (`via: node`): empty when fine, else the error",
    )
    retry_at: datetime | None = None
    round_trip_ms: float | None = Field(default=None, description="to the login node and back, measured while it is up")
    bytes_up: int = Field(default=0, description="sent through the slots since the gateway started")
    bytes_down: int = Field(default=0, description="received through the slots since the gateway started")
    last_error: str = Field(
        default="", description="why the connection was lost or refused last; kept after it is up again"
    )
