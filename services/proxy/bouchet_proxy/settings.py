"""What the proxy is told from outside, read once in main()."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAX_BODY_BYTES = 64 << 20
# Claude Code gives a stream up that brought no event for 300 s, and it counts no pings
HOLD_STARTING_S = 240.0


@dataclass(frozen=True)
class Settings:
    """Environment and secrets. Slot n of the gateway listens on slot_base_port + n."""

    api_key: str = field(repr=False)
    serving_secret: str = field(repr=False)
    redis_password: str = field(repr=False)
    redis_host: str = "redis"
    redis_port: int = 6379
    port: int = 4000
    slot_host: str = "gateway"
    slot_base_port: int = 8100
    slot_count: int = 8
    catalog: Path = Path("/etc/bouchet/models.yaml")
    direct_lane: bool = True
    hold_starting_s: float = HOLD_STARTING_S
    log_level: str = "INFO"
    max_body_bytes: int = MAX_BODY_BYTES

    def slot_url(self, slot: int) -> str:
        """Where the gateway's slot answers."""
        return f"http://{self.slot_host}:{self.slot_base_port + slot}"


def settings_from(env: Mapping[str, str], secrets: Mapping[str, str]) -> Settings:
    """The settings of that environment. secrets: api_key, serving_secret and redis_password."""
    return Settings(
        api_key=secrets["api_key"],
        serving_secret=secrets["serving_secret"],
        redis_password=secrets["redis_password"],
        redis_host=env.get("REDIS_HOST", "redis"),
        redis_port=int(env.get("REDIS_PORT", "6379")),
        port=int(env.get("PROXY_PORT", "4000")),
        slot_host=env.get("SLOT_HOST", "gateway"),
        slot_base_port=int(env.get("SLOT_BASE_PORT", "8100")),
        slot_count=int(env.get("SLOT_COUNT", "8")),
        catalog=Path(env.get("BOUCHET_CATALOG", "/etc/bouchet/models.yaml")),
        direct_lane=env.get("DIRECT", "on").strip().lower() not in ("off", "0", "no", "false"),
        hold_starting_s=float(env.get("HOLD_STARTING_S") or HOLD_STARTING_S),
        log_level=env.get("LOG_LEVEL", "INFO").upper(),
    )
