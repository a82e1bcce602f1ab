"""Reads the user's ~/.ssh, which the container has mounted read-only at another path and without private keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import asyncssh
from bouchet_core.errors import ConfigurationError

from bouchet_gateway.settings import SshSettings

from .host_keys import KnownHosts, parse_known_hosts
from .tcp import TcpConnector

_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_SSH_FOLDER = "/.ssh/"
# asyncssh prefers chacha20, which was measured to cost 1.7 times the CPU
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
    "chacha20-poly1305@openssh.com",
)
DEFAULT_SERVER_ALIVE_INTERVAL_S = 60


def config_files(ssh_dir: Path) -> list[str]:
    """Return the ssh config to read: none or one."""
    config = ssh_dir / "config"
    return [str(config)] if config.is_file() else []


def mounted_path(path: str, ssh_dir: Path) -> Path:
    """Return the path in the container: `~/.ssh/x` and `/home/me/.ssh/x` are `<ssh_dir>/x`."""
    _, folder, rest = path.partition(_SSH_FOLDER)
    return ssh_dir / rest if folder else Path(path)


def known_hosts_files(configured: Iterable[str], ssh_dir: Path) -> list[Path]:
    """Return the known_hosts files that exist: those of the config, else the usual ones."""
    named = [mounted_path(path, ssh_dir) for path in configured]
    return [path for path in named or [ssh_dir / "known_hosts", ssh_dir / "known_hosts2"] if path.is_file()]


def key_files(configured: Iterable[str], ssh_dir: Path) -> list[str]:
    """Return the private key files that exist here. Users of an agent usually have none, and need none."""
    named = [mounted_path(path, ssh_dir) for path in configured]
    usual = [ssh_dir / name for name in _DEFAULT_KEYS]
    return [str(path) for path in named or usual if path.is_file() and path.suffix != ".pub"]


def identity_files(configured: Iterable[str], ssh_dir: Path) -> list[str]:
    """Return the public key files that select the agent's keys to offer (`IdentitiesOnly yes`)."""
    named = [mounted_path(path, ssh_dir) for path in configured]
    public = [path if path.suffix == ".pub" else path.with_name(path.name + ".pub") for path in named]
    return [str(path) for path in public if path.is_file()]


def connection_options(
    settings: SshSettings,
    alias: str,
    user: str | None,
    port: int | None,
    *,
    private_key: asyncssh.SSHKey | None = None,
    more_known_hosts: Sequence[str] = (),
) -> tuple[KnownHosts, dict[str, Any]]:
    """Return the known host keys, and the keyword arguments of asyncssh.connect for a host alias.

    user and port count only where the ssh config names none. more_known_hosts: texts of further known_hosts files.
    """
    files = config_files(settings.ssh_dir)
    config = asyncssh.SSHClientConnectionOptions(config=files, host=alias, client_keys=None, known_hosts=None)
    read = config.config.get
    identities = cast("list[str]", read("IdentityFile") or [])
    hosts_files = known_hosts_files(cast("list[str]", read("UserKnownHostsFile") or []), settings.ssh_dir)
    keys = parse_known_hosts([*_existing_texts([*hosts_files, settings.trusted_hosts]), *more_known_hosts])
    known = KnownHosts(keys, config.host_key_alias)
    only = identity_files(identities, settings.ssh_dir) if read("IdentitiesOnly") else []
    interval_s = server_alive_interval(cast("int | None", read("ServerAliveInterval")))
    if config.proxy_command:
        raise ConfigurationError("ssh", describe_proxy_command(alias, config.proxy_command))
    options: dict[str, Any] = {
        "config": files,
        "tunnel": config.tunnel or TcpConnector(config.family, config.local_addr),
        "known_hosts": known,
        "client_keys": [*key_files(identities, settings.ssh_dir), *([private_key] if private_key else [])],
        "ignore_encrypted": True,
        "agent_path": settings.agent_socket or read("IdentityAgent"),
        "agent_identities": only or None,
        "encryption_algs": CIPHERS,
        "compression_algs": "none",
        # the shorter of ours and the user's: minutes are fine for a terminal, not for waiting requests
        "keepalive_interval": min(interval_s, settings.keepalive_interval_s),
        "keepalive_count_max": settings.keepalive_count,
        **FIXED_OPTIONS,
    }
    options |= {"username": user} if user and not read("User") else {}
    options |= {"port": port} if port and not read("Port") else {}
    return known, options


FIXED_OPTIONS: dict[str, Any] = {
    "gss_host": None,
    # the Connector has its own limits, which leave a person the time to answer
    "connect_timeout": None,
    "login_timeout": 0,
    # settings for terminal sessions in an ssh config would break commands and files
    "command": None,
    "request_pty": False,
    "x11_forwarding": False,
    "agent_forwarding": False,
}


def server_alive_interval(configured: int | None) -> int:
    """Return the configured interval in seconds, else the usual one; 0 is none."""
    return configured or DEFAULT_SERVER_ALIVE_INTERVAL_S


def describe_proxy_command(alias: str, command: object) -> str:
    """Return why a login through a ProxyCommand cannot be opened, and what to write instead."""
    words = command if isinstance(command, str) else " ".join(map(str, cast("Sequence[object]", command)))
    return (
        f"{alias} is reached through `ProxyCommand {words}`, whose program the gateway does not have: write "
        "`ProxyJump HOST` in its place in ~/.ssh/config if it means a jump, then run `make up`"
    )


def _existing_texts(paths: Iterable[Path]) -> list[str]:
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()]
