"""What happened to the SSH connection, as the gateway told it.

Keys (all under `bouchet:`):
    tunnel   stream   one entry a change, newest EVENTS_KEPT. Neither questions of the login nor answers are in it.
"""

from __future__ import annotations

from typing import Any, cast

import redis

from bouchet_core.tunnel import TunnelEvent

from .connection import PREFIX, mapped

EVENTS_KEPT = 1000
TUNNEL_EVENTS = PREFIX + "tunnel"
_FIRST = "0-0"


class TunnelStore:
    """Changes of the connection, oldest first. Raises StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def tell(self, event: TunnelEvent) -> None:
        """Appends a change."""
        with mapped():
            self._redis.xadd(TUNNEL_EVENTS, {"body": event.model_dump_json()}, maxlen=EVENTS_KEPT, approximate=True)

    def last_event(self) -> str:
        """The id of the newest change, `0-0` before the first."""
        with mapped():
            newest = cast("list[tuple[str, Any]]", self._redis.xrevrange(TUNNEL_EVENTS, count=1))
        return newest[0][0] if newest else _FIRST

    def events(self, after: str) -> list[tuple[str, TunnelEvent]]:
        """Ids and changes after that id."""
        with mapped():
            entries = cast("list[tuple[str, dict[str, str]]]", self._redis.xrange(TUNNEL_EVENTS, f"({after}"))
        return [(identity, TunnelEvent.model_validate_json(fields["body"])) for identity, fields in entries]
