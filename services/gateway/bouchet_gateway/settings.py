"""Settings of the gateway: read once in main, passed on as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bouchet_core.secrets import read_secret
from bouchet_core.site import Site, load_site


@dataclass(frozen=True)
class SshSettings:
    """How to log in. hosts: login nodes of one cluster, the first is tried first.

    `user` and `port` count only where the ssh config names none.
    """

    hosts: tuple[str, ...]
    ssh_dir: Path
    # host keys that a person accepted through us; ssh_dir is read-only
    trusted_hosts: Path
    user: str | None = None
    port: int | None = None
    agent_socket: str | None = None
    # for people without an agent; mounted, not copied
    key_file: Path | None = None
    # forwards end on the compute node, over a further connection through the first
    via_node: bool = False
    connect_timeout_s: float = 5.0
    handshake_timeout_s: float = 15.0
    # sshd's own LoginGraceTime is 120 s by default; it usually ends a login first
    login_timeout_s: float = 180.0
    # a dead peer is noticed after interval x (count + 1) = 6 s
    keepalive_interval_s: float = 2.0
    keepalive_count: int = 2


@dataclass(frozen=True)
class Limits:
    """Bounds on what callers may ask of the one connection."""

    # OpenSSH's MaxSessions is 10 by default: 8 commands, 1 file server, 1 to spare
    commands: int = 8
    output_bytes: int = 1 << 20
    file_bytes: int = 64 << 20
    command_timeout_s: float = 600.0
    # callers of files wait 10 s to read and 60 s to write, and should hear our words by then
    file_hold_s: float = 5.0
    file_timeout_s: float = 50.0
    open_timeout_s: float = 10.0
    hold_s: float = 30.0
    connections_per_slot: int = 512


@dataclass(frozen=True)
class Settings:
    """Everything the gateway needs to know at its start."""

    ssh: SshSettings
    site: Site
    token: str
    redis_host: str
    redis_port: int
    redis_password: str
    limits: Limits = Limits()
    door_host: str = "0.0.0.0"
    door_port: int = 8090
    slot_host: str = "0.0.0.0"
    slot_base_port: int = 8100
    slot_count: int = 8
    # below sshd's LoginGraceTime, so that the words are ours and not "connection lost"
    prompt_timeout_s: float = 110.0
    mfa_auto: str | None = None
    log_level: str = "INFO"


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Settings from the environment, the site file and the secrets; ConfigurationError when one cannot be used."""
    site = load_site(Path(environ.get("BOUCHET_SITE_FILE", "/etc/bouchet/sites/demo.yaml")))
    secrets = Path(environ.get("SECRETS_DIR", "/run/secrets"))
    return Settings(
        ssh=read_ssh_settings(environ, site),
        site=site,
        token=read_secret(secrets, "gateway_token"),
        redis_host=environ.get("REDIS_HOST", "redis"),
        redis_port=int(environ.get("REDIS_PORT", "6379")),
        redis_password=read_secret(secrets, "redis_password"),
        door_port=int(environ.get("GATEWAY_PORT", "8090")),
        slot_base_port=int(environ.get("SLOT_BASE_PORT", "8100")),
        slot_count=int(environ.get("SLOT_COUNT", "8")),
        mfa_auto=environ.get("MFA_AUTO") or None,
        log_level=environ.get("LOG_LEVEL", "INFO"),
    )


def read_ssh_settings(environ: Mapping[str, str], site: Site) -> SshSettings:
    """Where to log in: the aliases in BOUCHET_HOST, with the person's own ssh config, or the site's login host."""
    aliases = tuple(word.strip() for word in environ.get("BOUCHET_HOST", "").split(",") if word.strip())
    return SshSettings(
        hosts=aliases or (site.login.host,),
        user=site.login.user,
        port=None if aliases else site.login.port,
        ssh_dir=Path(environ.get("SSH_DIR", "/run/ssh")),
        trusted_hosts=Path(environ.get("GATEWAY_DATA_DIR", "/data")) / "known_hosts",
        agent_socket=environ.get("SSH_AUTH_SOCK") or None,
        via_node=site.via == "node",
        key_file=Path(environ["SSH_KEY_FILE"]) if environ.get("SSH_KEY_FILE") else None,
    )
