"""Where the local stack listens, and the key that opens it: from the project's `.env` and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UnreachableError

# cli/bouchet_cli/client/settings.py lies three folders below the project
PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Settings:
    """`key` opens both."""

    api_url: str
    proxy_url: str
    key: str = field(repr=False)


def read_settings(environment: Mapping[str, str], project: Path = PROJECT) -> Settings:
    """The environment's word counts before the file's. Raises UnreachableError when there is no key."""
    path = env_file(environment, project)
    values = parse_env_file(path.read_text(encoding="utf-8")) if path.is_file() else {}
    key = environment.get("BOUCHET_API_KEY") or values.get("BOUCHET_API_KEY")
    if not key:
        missing = "has no BOUCHET_API_KEY" if path.is_file() else "is not there"
        raise UnreachableError(f"{path} {missing}; `make up` makes it")
    return Settings(
        api_url=environment.get("BOUCHET_API_URL") or _local(values.get("API_PORT") or "4001"),
        proxy_url=environment.get("BOUCHET_PROXY_URL") or _local(values.get("PROXY_PORT") or "4000"),
        key=key,
    )


def env_file(environment: Mapping[str, str], project: Path = PROJECT) -> Path:
    """Where the key is, as `make up` reads it."""
    return project / (environment.get("BOUCHET_ENV_FILE") or ".env")


def parse_env_file(text: str) -> dict[str, str]:
    """NAME=VALUE lines; comments and quotes around a value fall away."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            values[name.strip()] = value[1:-1] if quoted else value.split(" #")[0].rstrip()
    return values


def _local(port: str) -> str:
    return f"http://127.0.0.1:{port}"
