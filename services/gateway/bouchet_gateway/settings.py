"""Settings of the gateway, read from environment variables, the site file and secret files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from bouchet_core.config.site import Site, load_site
from bouchet_core.settings import DEFAULT_SITE_FILE, Count, EnvironmentSettings, Port, ServiceSettings, Switch
from pydantic import BeforeValidator, Field, SecretStr


def _split(value: object) -> object:
    """Split a comma-separated list of host aliases."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


class SshSettings(EnvironmentSettings):
    """How to log in. hosts: login nodes of one cluster, tried in this order.

    `user` and `port` apply only where the ssh config has none.
    """

    hosts: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(default=(), validation_alias="BOUCHET_HOST")
    ssh_dir: Path = Field(default=Path("/run/ssh"), validation_alias="SSH_DIR")
    # ssh_dir is read-only, so host keys that the user accepted are kept here
    data_dir: Path = Field(default=Path("/data"), validation_alias="GATEWAY_DATA_DIR")
    # the person's folder of Kerberos tickets, where they have one
    tickets_dir: Path = Field(default=Path("/run/tickets"), validation_alias="TICKETS_DIR")
    user: str | None = None
    port: int | None = None
    agent_socket: str | None = Field(default=None, validation_alias="SSH_AUTH_SOCK")
    # a private key for users without an agent; mounted, not copied
    key_file: Path | None = Field(default=None, validation_alias="SSH_KEY_FILE")
    # forwards end on the compute node, over a second connection through the first
    via_node: bool = False
    # of the site file: folders before the PATH of commands, and words before Slurm's programs
    path: tuple[str, ...] = ()
    command_prefix: tuple[str, ...] = ()
    connect_timeout_s: float = 5.0
    handshake_timeout_s: float = 15.0
    # sshd's LoginGraceTime is 120 s by default and usually ends a login first
    login_timeout_s: float = 180.0
    # a dead peer is noticed after interval x (count + 1) = 6 s
    keepalive_interval_s: float = 2.0
    keepalive_count: int = 2
    # replaces asyncssh's packet methods by faster ones (ssh/fast_path)
    fast_path: Switch = Field(default=True, validation_alias="SSH_FAST_PATH")

    @property
    def trusted_hosts(self) -> Path:
        """The known_hosts file of accepted host keys."""
        return self.data_dir / "known_hosts"


@dataclass(frozen=True)
class GatewayLimits:
    """Bounds on what callers may ask of the one SSH connection."""

    # OpenSSH's MaxSessions is 10 by default: 8 commands, 1 file server, 1 spare
    commands: int = 8
    output_bytes: int = 1 << 20
    file_bytes: int = 64 << 20
    command_timeout_s: float = 600.0
    # callers wait 10 s for a read and 60 s for a write; these limits end first, so that callers get an error body
    file_hold_s: float = 5.0
    file_timeout_s: float = 50.0
    open_timeout_s: float = 10.0
    hold_s: float = 30.0
    connections_per_slot: int = 512
    # what clients of all slots may send before their targets are connected; the container has 384 MiB
    early_bytes: int = 64 << 20


class GatewaySettings(ServiceSettings):
    """Addresses, limits and secrets of one gateway."""

    redis_user: str = "gateway"
    ssh: SshSettings
    site: Site
    # the job scripts, of which a copy is in the gateway's image
    remote_dir: Path = Field(default=Path("/app/remote"), validation_alias="REMOTE_DIR")
    gateway_token_api: SecretStr
    gateway_token_worker: SecretStr
    limits: GatewayLimits = GatewayLimits()
    api_host: str = "0.0.0.0"
    api_port: Port = Field(default=8090, validation_alias="GATEWAY_PORT")
    slot_host: str = "0.0.0.0"
    slot_base_port: Port = Field(default=8100, validation_alias="SLOT_BASE_PORT")
    slot_count: Count = Field(default=16, validation_alias="SLOT_COUNT")
    # below sshd's LoginGraceTime, so that our message is shown and not "connection lost"
    prompt_timeout_s: float = 110.0
    mfa_auto: str | None = Field(default=None, validation_alias="MFA_AUTO")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **given: Any) -> Self:
        """Read the site file and all settings.

        The aliases of BOUCHET_HOST (with the user's own ssh config) replace the site's login host and port.
        """
        site = load_site(Path(environment.get("BOUCHET_SITE_FILE") or DEFAULT_SITE_FILE))
        login: dict[str, Any] = {
            "user": site.login.user,
            "via_node": site.via == "node",
            "path": site.path,
            "command_prefix": site.command_prefix,
        }
        ssh = SshSettings.from_environment(environment, **login)
        if not ssh.hosts:
            ssh = SshSettings.from_environment(environment, hosts=(site.login.host,), port=site.login.port, **login)
        return super().from_environment(environment, ssh=ssh, site=site, **given)
