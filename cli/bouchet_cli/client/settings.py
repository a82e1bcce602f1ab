"""Addresses and keys of the local stack, read from the project's `.env` and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bouchet_core.env_file import EnvLineError, parse_env_lines

from .errors import UnreachableError

# this file is three folders below the project
PROJECT = Path(__file__).resolve().parents[3]
KEY, ADMIN_KEY = "BOUCHET_API_KEY", "BOUCHET_ADMIN_KEY"


@dataclass(frozen=True)
class CliSettings:
    """Addresses and keys of the API and the proxy. `admin_key` opens the API alone, `key` the proxy alone.

    What other programs are given (Claude Code, shells, configuration files) never holds the admin key.
    """

    api_url: str
    proxy_url: str
    key: str = field(repr=False)
    admin_key: str = field(repr=False)
    # the key came from the environment, and may be that of another person
    own_key: bool = False


def read_settings(environment: Mapping[str, str], project: Path = PROJECT) -> CliSettings:
    """Return the settings; the environment takes precedence over the file.

    Raises UnreachableError without the keys, or for a line that does not parse.
    """
    path = env_file(environment, project)
    values = _read_env_file(path)
    keys = {name: environment.get(name) or values.get(name) or "" for name in (KEY, ADMIN_KEY)}
    lacking = next((name for name, key in keys.items() if not key), None)
    if lacking:
        missing = f"has no {lacking}" if path.is_file() else "does not exist"
        raise UnreachableError(f"{path} {missing}; `make up` creates it")
    return CliSettings(
        api_url=environment.get("BOUCHET_API_URL") or _local(values.get("API_PORT") or "4001"),
        proxy_url=environment.get("BOUCHET_PROXY_URL") or _local(values.get("PROXY_PORT") or "4000"),
        key=keys[KEY],
        admin_key=keys[ADMIN_KEY],
        own_key=keys[KEY] != values.get(KEY),
    )


def env_file(environment: Mapping[str, str], project: Path = PROJECT) -> Path:
    """Return the path of the file that holds the keys, the one that `make up` reads."""
    return project / (environment.get("BOUCHET_ENV_FILE") or ".env")


def without_admin_key(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for another program."""
    return {name: value for name, value in environment.items() if name != ADMIN_KEY}


def _read_env_file(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        return {entry.key: entry.value for entry in parse_env_lines(path.read_text(encoding="utf-8"))}
    except EnvLineError as exc:
        raise UnreachableError(f"{path}:{exc.line}: {exc.problem}") from exc


def _local(port: str) -> str:
    return f"http://127.0.0.1:{port}"
