"""Settings of the worker, read from environment variables and secret files."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

from bouchet_core.errors import LaunchRefusedError
from bouchet_core.policy import Budget, parse_budget
from bouchet_core.settings import DEFAULT_CATALOG, DEFAULT_SITE_FILE, Count, HttpUrl, Port, ServiceSettings
from pydantic import BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError


def _budget(value: object) -> object:
    """Return the budget of a text such as 400h/month."""
    try:
        return parse_budget(value) if isinstance(value, str) else value
    except LaunchRefusedError as exc:
        raise PydanticCustomError("budget", "{problem}", {"problem": str(exc)}) from exc


class WorkerSettings(ServiceSettings):
    """Paths, addresses and secrets of one worker. Slot n listens on port slot_base_port + n of slot_host."""

    redis_user: str = "worker"
    gateway_token: SecretStr
    serving_secret: SecretStr
    hf_token: SecretStr | None = None
    site_file: Path = Field(default=DEFAULT_SITE_FILE, validation_alias="BOUCHET_SITE_FILE")
    catalog: Path = Field(default=DEFAULT_CATALOG, validation_alias="BOUCHET_CATALOG")
    gateway_url: HttpUrl = Field(default="http://gateway:8090", validation_alias="GATEWAY_URL")
    slot_host: str = Field(default="gateway", validation_alias="SLOT_HOST")
    slot_base_port: Port = Field(default=8100, validation_alias="SLOT_BASE_PORT")
    slot_count: Count = Field(default=16, validation_alias="SLOT_COUNT")
    # of all deployments together
    budget: Annotated[Budget | None, BeforeValidator(_budget)] = Field(default=None, validation_alias="BOUCHET_BUDGET")
    remote_dir: Path = Field(default=Path("/app/remote"), validation_alias="REMOTE_DIR")
    pins_dir: Path = Field(default=Path("/etc/bouchet/pins"), validation_alias="PINS_DIR")
    recipe_dir: Path = Field(default=Path("/app/apptainer"), validation_alias="RECIPE_DIR")
    heartbeat_file: Path | None = Field(default=None, validation_alias="HEARTBEAT_FILE")
    # a container's host name is unique among replicas and survives a restart
    owner: str = Field(default_factory=socket.gethostname, validation_alias="WORKER_NAME")
