"""When to connect again after a failed or lost connection. Pure: no clock, no randomness of its own.

Network failures are retried quickly, since a network comes back by itself. Failed logins are not: sites lock accounts,
and every attempt may send a push to a phone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bouchet_core.errors import BouchetError, ConfigurationError
from bouchet_core.tunnel import TunnelState

from bouchet_gateway.errors import HostKeyRefusedError, LoginRefusedError, PromptUnansweredError

NETWORK_FIRST_S = 0.25
NETWORK_CAP_S = 2.0
# after some minutes without a network, a reconnect within two seconds is not worth the attempts
NETWORK_LONG_OUTAGE_AFTER = 60
NETWORK_LONG_OUTAGE_CAP_S = 15.0
LOGIN_FIRST_S = 30.0
MAX_LOGINS = 3
# no login is sent in these cases, only the host key or a file is read again
RECHECK_S = 30.0


class FailureCause(StrEnum):
    """Why there is no connection."""

    NETWORK = "network"
    LOGIN = "login"
    HOST_KEY = "host_key"
    UNANSWERED = "unanswered"
    CONFIGURATION = "configuration"


@dataclass(frozen=True)
class Retry:
    """The tunnel's state until the next attempt, and the seconds to wait; None waits for a person's `connect`."""

    state: TunnelState
    delay_s: float | None


def cause_of(error: BouchetError) -> FailureCause:
    """Return the cause of a failed connection attempt."""
    if isinstance(error, PromptUnansweredError):
        return FailureCause.UNANSWERED
    if isinstance(error, HostKeyRefusedError):
        return FailureCause.HOST_KEY
    if isinstance(error, LoginRefusedError):
        return FailureCause.LOGIN
    return FailureCause.CONFIGURATION if isinstance(error, ConfigurationError) else FailureCause.NETWORK


def next_retry(cause: FailureCause, failures: int, chance: float) -> Retry:
    """Return when to retry after so many failures in a row (from 1). chance: in [0, 1), for jitter."""
    if cause is FailureCause.UNANSWERED:
        return Retry(TunnelState.NEEDS_HUMAN, None)
    if cause is FailureCause.LOGIN:
        delay = None if failures >= MAX_LOGINS else LOGIN_FIRST_S * 2 ** (failures - 1)
        return Retry(TunnelState.REFUSED, delay)
    if cause is FailureCause.NETWORK:
        return Retry(TunnelState.DOWN, network_delay_s(failures, chance))
    return Retry(TunnelState.REFUSED, RECHECK_S)


def network_delay_s(failures: int, chance: float) -> float:
    """Return a delay that doubles from a quarter of a second to two, later fifteen; jitter takes up to 25 % off."""
    cap = NETWORK_CAP_S if failures < NETWORK_LONG_OUTAGE_AFTER else NETWORK_LONG_OUTAGE_CAP_S
    return float(min(cap, NETWORK_FIRST_S * 2 ** min(failures - 1, 16))) * (1 - chance / 4)
