"""Settings of the API, read from environment variables and secret files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bouchet_core.settings import DEFAULT_CATALOG, DEFAULT_SITE_FILE, Count, HttpUrl, Port, ServiceSettings
from pydantic import Field, SecretStr


class ApiSettings(ServiceSettings):
    """Paths, addresses and secrets of one API."""

    redis_user: str = "api"
    admin_key: SecretStr
    gateway_token: SecretStr
    chat_key: SecretStr
    # seals the keys of attached servers
    attach_secret: SecretStr
    # the URL of a PostgreSQL database; it may hold a password
    db_url: SecretStr | None = None
    ledger_dir: Path = Field(default=Path("/data"), validation_alias="LEDGER_DIR")
    ledger_keep_days: Count = Field(default=400, validation_alias="LEDGER_KEEP_DAYS")
    ledger_max_mb: Count = Field(default=2048, validation_alias="LEDGER_MAX_MB")
    site_file: Path = Field(default=DEFAULT_SITE_FILE, validation_alias="BOUCHET_SITE_FILE")
    catalog: Path = Field(default=DEFAULT_CATALOG, validation_alias="BOUCHET_CATALOG")
    pins_dir: Path = Field(default=Path("/etc/bouchet/pins"), validation_alias="PINS_DIR")
    gateway_url: HttpUrl = Field(default="http://gateway:8090", validation_alias="GATEWAY_URL")
    proxy_url: HttpUrl = Field(default="http://proxy:4000", validation_alias="PROXY_URL")
    # of all deployments, as the worker has it: 400h/month
    budget: str = Field(default="", validation_alias="BOUCHET_BUDGET")
    # how many notifiers run: none without a target in NOTIFY_URLS
    notifiers: Literal["0", "1"] = Field(default="0", validation_alias="NOTIFIERS")
    api_port: Port = Field(default=4001, validation_alias="API_PORT")
