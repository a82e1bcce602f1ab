"""Settings of the API: the environment says where things are, files in SECRETS_DIR hold what must not be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bouchet_core.errors import ConfigurationError
from bouchet_core.secrets import read_secret

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True)
class Settings:
    """Everything that differs between two installations."""

    site_file: Path
    catalog: Path
    redis_host: str
    redis_port: int
    gateway_url: str
    api_port: int
    log_level: str
    api_key: str = field(repr=False)
    redis_password: str = field(repr=False)
    gateway_token: str = field(repr=False)
    pins_dir: Path = Path("/etc/bouchet/pins")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Raises ConfigurationError that names the variable or file at fault."""
        secrets = Path(environment.get("SECRETS_DIR", "/run/secrets"))
        return cls(
            site_file=Path(environment.get("BOUCHET_SITE_FILE", "/etc/bouchet/sites/demo.yaml")),
            catalog=Path(environment.get("BOUCHET_CATALOG", "/etc/bouchet/models.yaml")),
            redis_host=environment.get("REDIS_HOST", "redis"),
            redis_port=_port(environment, "REDIS_PORT", 6379),
            gateway_url=environment.get("GATEWAY_URL", "http://gateway:8090"),
            api_port=_port(environment, "API_PORT", 4001),
            log_level=_level(environment),
            api_key=read_secret(secrets, "api_key"),
            redis_password=read_secret(secrets, "redis_password"),
            gateway_token=read_secret(secrets, "gateway_token"),
            pins_dir=Path(environment.get("PINS_DIR", "/etc/bouchet/pins")),
        )


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) <= 65535:
        raise ConfigurationError("environment", f"{name} is {text!r}, not a port")
    return int(text)


def _level(environment: Mapping[str, str]) -> str:
    level = (environment.get("LOG_LEVEL") or "INFO").upper()
    if level not in LEVELS:
        raise ConfigurationError("environment", f"LOG_LEVEL is {level!r}, not one of {', '.join(LEVELS)}")
    return level
