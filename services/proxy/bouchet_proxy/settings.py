"""Settings of the proxy, read from environment variables and secret files."""

from __future__ import annotations

from pathlib import Path

from bouchet_core.settings import DEFAULT_CATALOG, Count, Port, Seconds, ServiceSettings, Switch
from pydantic import Field, SecretStr

MAX_BODY_BYTES = 64 << 20
# Claude Code drops a stream that brought no event for 300 s, and pings are no events to it
HOLD_STARTING_S = 240.0


class ProxySettings(ServiceSettings):
    """Addresses, limits and secrets of one proxy. Slot n of the gateway listens on port slot_base_port + n."""

    api_key: SecretStr
    serving_secret: SecretStr
    port: Port = Field(default=4000, validation_alias="PROXY_PORT")
    slot_host: str = Field(default="gateway", validation_alias="SLOT_HOST")
    slot_base_port: Port = Field(default=8100, validation_alias="SLOT_BASE_PORT")
    slot_count: Count = Field(default=8, validation_alias="SLOT_COUNT")
    catalog: Path = Field(default=DEFAULT_CATALOG, validation_alias="BOUCHET_CATALOG")
    direct: Switch = Field(default=True, validation_alias="DIRECT")
    hold_starting_s: Seconds = Field(default=HOLD_STARTING_S, validation_alias="HOLD_STARTING_S")
    max_body_bytes: int = MAX_BODY_BYTES

    def slot_url(self, slot: int) -> str:
        """Return the base URL of that slot of the gateway."""
        return f"http://{self.slot_host}:{self.slot_base_port + slot}"
