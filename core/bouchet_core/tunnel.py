"""The SSH connection as other packages see it: its state, what it asks of a person, where slots lead. All values are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from .values import FrozenModel


class SlotTarget(FrozenModel):
    """Where a gateway slot leads: a node, and a port or a UNIX socket there.

    loopback: the port is on the node's 127.0.0.1 alone.
    """

    node: str
    port: int | None = None
    socket: str | None = None
    loopback: bool = False
    deployment: str

    @property
    def on_node(self) -> bool:
        """Whether only programs on the node itself reach it."""
        return self.loopback or self.socket is not None

    @property
    def place(self) -> str:
        """For people: `node:port`, or the socket's path."""
        return f"{self.node}:{self.socket or self.port}"


class TunnelState(StrEnum):
    """What the one SSH connection is doing."""

    DOWN = "down"
    CONNECTING = "connecting"
    NEEDS_HUMAN = "needs_human"
    UP = "up"
    REFUSED = "refused"


class LoginPrompt(FrozenModel):
    """A question of the SSH server (Duo menu, passcode) or of the key; answered by a person, never stored."""

    id: str
    title: str = ""
    questions: tuple[str, ...]
    echo: tuple[bool, ...]
    host: str = Field(
        default="", description="who asks: the login node, or a jump host before it; empty: the key itself"
    )


class HostKey(FrozenModel):
    """A host key that the login node showed and that nobody has accepted. `changed`: another one was known."""

    place: str = Field(description="the host as known_hosts writes it, e.g. `[login.example.org]:2222`")
    algorithm: str
    fingerprint: str = Field(description="SHA256:..., as ssh prints it")
    changed: bool = False


class TunnelEvent(FrozenModel):
    """One change of the SSH connection. What it waits for stands in GET /v1/tunnel, and nowhere else."""

    state: TunnelState
    host: str
    detail: str = ""
    waits_for: Literal["", "prompt", "host_key"] = Field(
        default="", description="a person: to answer the login's question, or to accept a host key"
    )
    at: datetime


class TunnelStatus(FrozenModel):
    """The tunnel as people and programs see it."""

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
    nodes: Mapping[str, str] = Field(
        default_factory=dict,
        description="compute nodes that forwards lead to over ssh (`via: node`): empty when fine, else what is wrong",
    )
    retry_at: datetime | None = None
    round_trip_ms: float | None = Field(default=None, description="to the login node and back, measured while it is up")
    bytes_up: int = Field(default=0, description="sent through the slots since the gateway started")
    bytes_down: int = Field(default=0, description="received through the slots since the gateway started")
    last_error: str = Field(
        default="", description="why the connection was lost or refused last; stays after it is mended"
    )
