"""Addresses and key of the local stack, read from the project's `.env` and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bouchet_core.env_file import EnvLineError, parse_env_lines

from .errors import UnreachableError

# this file is three folders below the project
PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class CliSettings:
    """Addresses of the API and the proxy. `key` is valid for both."""

    api_url: str
    proxy_url: str
    key: str = field(repr=False)


def read_settings(environment: Mapping[str, str], project: Path = PROJECT) -> CliSettings:
    """Return the settings; the environment takes precedence over the file.

    Raises UnreachableError without a key, or for a line that does not parse.
    """
    path = env_file(environment, project)
    values = _read_env_file(path)
    key = environment.get("BOUCHET_API_KEY") or values.get("BOUCHET_API_KEY")
    if not key:
        missing = "has no BOUCHET_API_KEY" if path.is_file() else "does not exist"
        raise UnreachableError(f"{path} {missing}; `make up` creates it")
    return CliSettings(
        api_url=environment.get("BOUCHET_API_URL") or _local(values.get("API_PORT") or "4001"),
        proxy_url=environment.get("BOUCHET_PROXY_URL") or _local(values.get("PROXY_PORT") or "4000"),
        key=key,
    )


def env_file(environment: Mapping[str, str], project: Path = PROJECT) -> Path:
    """Return the path of the file that holds the key, the one that `make up` reads."""
    return project / (environment.get("BOUCHET_ENV_FILE") or ".env")


def _read_env_file(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        return {entry.key: entry.value for entry in parse_env_lines(path.read_text(encoding="utf-8"))}
    except EnvLineError as exc:
        raise UnreachableError(f"{path}:{exc.line}: {exc.problem}") from exc


def _local(port: str) -> str:
    return f"http://127.0.0.1:{port}"
