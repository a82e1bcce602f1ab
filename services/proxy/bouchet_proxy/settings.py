"""Settings of the proxy, read from environment variables and secret files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from bouchet_core.settings import DEFAULT_CATALOG, Count, HttpUrl, Port, Seconds, ServiceSettings, Switch
from pydantic import BeforeValidator, Field, SecretStr

from .browsers import parse_origins

MAX_BODY_BYTES = 64 << 20
# under way at a time. A body is kept parsed and encoded: with what LiteLLM takes, the limits fit into 1 GiB of memory
MAX_REQUESTS_PER_KEY, MAX_BYTES_PER_KEY = 128, 64 << 20
MAX_REQUESTS, MAX_BYTES = 1024, 192 << 20
# Claude Code drops a stream that brought no event for 300 s, and pings are no events to it
HOLD_STARTING_S = 240.0
# a laptop that slept, a VPN that changed, a second factor for which a phone has to be found
HOLD_TUNNEL_S = 600.0

Origins = Annotated[
    frozenset[str], BeforeValidator(lambda given: parse_origins(given) if isinstance(given, str) else given)
]


class ProxySettings(ServiceSettings):
    """Addresses, limits and secrets of one proxy. Slot n of the gateway listens on port slot_base_port + n."""

    redis_user: str = "proxy"
    api_key: SecretStr
    serving_secret: SecretStr
    port: Port = Field(default=4000, validation_alias="PROXY_PORT")
    slot_host: str = Field(default="gateway", validation_alias="SLOT_HOST")
    slot_base_port: Port = Field(default=8100, validation_alias="SLOT_BASE_PORT")
    slot_count: Count = Field(default=16, validation_alias="SLOT_COUNT")
    catalog: Path = Field(default=DEFAULT_CATALOG, validation_alias="BOUCHET_CATALOG")
    direct: Switch = Field(default=True, validation_alias="DIRECT")
    hold_starting_s: Seconds = Field(default=HOLD_STARTING_S, validation_alias="HOLD_STARTING_S")
    hold_tunnel_s: Seconds = Field(default=HOLD_TUNNEL_S, validation_alias="HOLD_TUNNEL_S")
    continue_answers: Switch = Field(default=True, validation_alias="CONTINUE_ANSWERS")
    browser_origins: Origins = Field(default=frozenset(), validation_alias="BROWSER_ORIGINS")
    dashboard_url: HttpUrl = Field(default="http://127.0.0.1:4001", validation_alias="DASHBOARD_URL")
    max_body_bytes: int = MAX_BODY_BYTES
    max_requests_per_key: int = MAX_REQUESTS_PER_KEY
    max_bytes_per_key: int = MAX_BYTES_PER_KEY
    max_requests: int = MAX_REQUESTS
    max_bytes: int = MAX_BYTES

    def slot_url(self, slot: int) -> str:
        """Return the base URL of that slot of the gateway."""
        return f"http://{self.slot_host}:{self.slot_base_port + slot}"
