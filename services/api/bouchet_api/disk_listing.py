"""Which models lie on the cluster, as far as it can be known within a moment."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from bouchet_core.downloads import DiskListing
from bouchet_core.errors import GatewayError
from bouchet_core.tunnel import TunnelState

from .dependencies import Parts

# older than this, a look is made anew
GOOD_FOR = timedelta(minutes=5)
MOMENT_S = 2.0
LOOK_S = 0.05


def disk_now(parts: Parts) -> DiskListing | None:
    """The last look, a new one where that is old and the tunnel is up. None: nobody has been able to look yet."""
    known = parts.store.downloads.disk()
    if known is not None and datetime.now(UTC) - known.looked_at < GOOD_FOR:
        return known
    if not _tunnel_is_up(parts) or not parts.store.downloads.may_ask_for_disk():
        return known
    parts.tasks.look_at_disk()
    deadline = time.monotonic() + MOMENT_S
    while time.monotonic() < deadline:
        time.sleep(LOOK_S)
        new = parts.store.downloads.disk()
        if new != known:
            return new
    return known


def _tunnel_is_up(parts: Parts) -> bool:
    try:
        return parts.gateway.status().state is TunnelState.UP
    except GatewayError:
        return False
