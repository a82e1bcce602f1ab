"""Attached servers: model servers on the cluster's network that run without a job of ours, as people name them.

Nothing proves who answers on such a port. So a person names node and port, the worker checks that Slurm or the site
file knows the node, and only then signs a slot target; the gateway checks the form of both once more.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, SecretStr, StringConstraints, field_validator

from bouchet_core.errors import BouchetError
from bouchet_core.values import WHOLE, DeploymentName, FrozenModel

# above the ports that only root can listen on; without the daemons of Slurm
ATTACHED_PORTS = range(1024, 65_536)
SLURM_PORTS = frozenset((6817, 6818, 6819, 6820))
JOB_PREFIX = "attached-"
MAX_KEY_CHARACTERS = 512
# what a key may consist of, as it becomes a header: visible ASCII without spaces
KEY_PATTERN = r"^[\x21-\x7e]+$"

_NODE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
# numbers and dots alone are an address, also in forms such as 127.1 and 0x7f.1
_ADDRESS = re.compile(r"(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+)){0,3}\.?", re.ASCII | re.IGNORECASE)
_LOOPBACK = re.compile(r"(^|[.-])(localhost|localdomain|loopback)", re.IGNORECASE)

ApiDialect = Literal["openai", "anthropic"]
ModelId = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]


class AttachError(BouchetError):
    """A server cannot be attached: its place is refused, or one of the reasons below."""

    kind = "attach_refused"


class ServerUnreachableError(AttachError):
    """Nothing answers there. is_definite: the node itself refused the connection, so that it was no chance."""

    kind = "server_unreachable"

    def __init__(self, detail: str, *, is_definite: bool = False) -> None:
        self.is_definite = is_definite
        super().__init__(detail)


class ServerKeyRefusedError(AttachError):
    """The server wants a key, or another one."""

    kind = "server_key_refused"


class NoModelServerError(AttachError):
    """What answers there does not speak the API of a model server."""

    kind = "no_model_server"


class ModelNotServedError(AttachError):
    """The server does not have that model, or has several and none was named."""

    kind = "model_not_served"


class AttachRequest(FrozenModel):
    """The body of a request to attach a server. The key is sealed before it is stored."""

    model_config = ConfigDict(hide_input_in_errors=True)

    name: DeploymentName = Field(description="the name that clients use")
    node: str = Field(min_length=1, max_length=253, description="a node of the cluster, as Slurm names it")
    port: Annotated[int, Field(ge=1, le=65_535), WHOLE] = Field(description="where the server listens there, for HTTP")
    key: SecretStr | None = Field(
        default=None, max_length=MAX_KEY_CHARACTERS, description="the server's API key, if it wants one"
    )
    model: ModelId | None = Field(
        default=None, description="which of the server's models; needed where it serves several"
    )
    max_len: Annotated[int, Field(ge=256, le=10_485_760), WHOLE] | None = Field(
        default=None, description="context window in tokens, where the server does not report it"
    )

    @field_validator("key")
    @classmethod
    def _check_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.match(KEY_PATTERN, key.get_secret_value()):
            raise ValueError("a key is one line of visible ASCII characters without spaces")
        return key


class AttachedServer(FrozenModel):
    """What the record of an attached server knows of it. The server belongs to others and is never cancelled."""

    model: str = Field(description="the model's name as the server knows it")
    dialects: tuple[ApiDialect, ...] = Field(default=(), description="whose API it speaks")
    max_len: int | None = Field(default=None, description="the window that the person who attached it named")
    has_key: bool = Field(default=False, description="whether requests carry a key")


def attached_job_name(deployment: str) -> str:
    """Return what the place of a job is called in the record of an attached server. Slurm has no job of that name."""
    return f"{JOB_PREFIX}{deployment}"


def node_problem(node: str) -> str:
    """Return why no server on that host can be attached, judged by its name; empty where it may be a node's name."""
    if _LOOPBACK.search(node):
        return f"{node} is the machine itself, not a node of the cluster"
    if _ADDRESS.fullmatch(node) or not _NODE.fullmatch(node):
        return f"{node!r} is not the name of a node: give it as `sinfo -N` prints it, not as an address"
    return ""


def port_problem(port: int | None) -> str:
    """Return why no server on that port can be attached; empty where it may be one."""
    if port not in ATTACHED_PORTS:
        last = ATTACHED_PORTS.stop - 1
        return f"port {port} is not one of {ATTACHED_PORTS.start}-{last}, on which people's servers listen"
    return f"port {port} is Slurm's own" if port in SLURM_PORTS else ""
