"""Everything the worker is told by its surroundings. Read in main() only."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Addresses and paths. Slot n listens on slot_base_port + n of slot_host."""

    site_file: Path
    catalog: Path
    redis_host: str
    redis_port: int
    gateway_url: str
    slot_host: str
    slot_base_port: int
    slot_count: int
    remote_dir: Path
    pins_dir: Path
    recipe_dir: Path
    secrets_dir: Path
    log_level: str
    owner: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Unset variables have the values of the composed stack."""
        read = environment.get
        return cls(
            site_file=Path(read("BOUCHET_SITE_FILE", "/etc/bouchet/sites/demo.yaml")),
            catalog=Path(read("BOUCHET_CATALOG", "/etc/bouchet/models.yaml")),
            redis_host=read("REDIS_HOST", "redis"),
            redis_port=int(read("REDIS_PORT", "6379")),
            gateway_url=read("GATEWAY_URL", "http://gateway:8090"),
            slot_host=read("SLOT_HOST", "gateway"),
            slot_base_port=int(read("SLOT_BASE_PORT", "8100")),
            slot_count=int(read("SLOT_COUNT", "8")),
            remote_dir=Path(read("REMOTE_DIR", "/app/remote")),
            pins_dir=Path(read("PINS_DIR", "/etc/bouchet/pins")),
            recipe_dir=Path(read("RECIPE_DIR", "/app/apptainer")),
            secrets_dir=Path(read("SECRETS_DIR", "/run/secrets")),
            log_level=read("LOG_LEVEL", "INFO"),
            # a container's name is its own, also among replicas, and stays when it is started again
            owner=read("WORKER_NAME", "") or socket.gethostname(),
        )
