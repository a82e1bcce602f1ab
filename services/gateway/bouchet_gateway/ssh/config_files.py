"""The person's ~/.ssh as the container sees it: mounted read-only at another place, without private keys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_MARK = "/.ssh/"


def config_files(ssh_dir: Path) -> list[str]:
    """The ssh config to read: none, or one."""
    config = ssh_dir / "config"
    return [str(config)] if config.is_file() else []


def as_mounted(path: str, ssh_dir: Path) -> Path:
    """Where a path of the ssh config lies here: `~/.ssh/x` and `/home/me/.ssh/x` are `<ssh_dir>/x`."""
    _, mark, rest = path.partition(_MARK)
    return ssh_dir / rest if mark else Path(path)


def known_hosts_files(configured: Iterable[str], ssh_dir: Path) -> list[Path]:
    """Files with known host keys that exist; those of the config, else the usual ones."""
    named = [as_mounted(path, ssh_dir) for path in configured]
    return [path for path in named or [ssh_dir / "known_hosts", ssh_dir / "known_hosts2"] if path.is_file()]


def key_files(configured: Iterable[str], ssh_dir: Path) -> list[str]:
    """Private key files that exist here. With an agent there usually are none, and none are needed."""
    named = [as_mounted(path, ssh_dir) for path in configured]
    usual = [ssh_dir / name for name in _DEFAULT_KEYS]
    return [str(path) for path in named or usual if path.is_file() and path.suffix != ".pub"]


def identity_files(configured: Iterable[str], ssh_dir: Path) -> list[str]:
    """Public key files that say which of the agent's keys to offer (`IdentitiesOnly yes`)."""
    named = [as_mounted(path, ssh_dir) for path in configured]
    public = [path if path.suffix == ".pub" else path.with_name(path.name + ".pub") for path in named]
    return [str(path) for path in public if path.is_file()]
