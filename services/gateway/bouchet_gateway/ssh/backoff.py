"""When to try again after a failed or lost connection. Pure: no clock, no randomness of its own.

Network failures are retried quickly, for the network comes back by itself. Failed logins are not: sites lock
accounts, and every try may ring somebody's phone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bouchet_core.errors import BouchetError, ConfigurationError
from bouchet_core.tunnel import TunnelState

from bouchet_gateway.errors import HostKeyRefusedError, LoginRefusedError, PromptUnansweredError

NETWORK_FIRST_S = 0.25
NETWORK_CAP_S = 2.0
# after some minutes without a network nobody waits for the next second
NETWORK_PATIENT_AFTER = 60
NETWORK_PATIENT_CAP_S = 15.0
LOGIN_FIRST_S = 30.0
LOGIN_TRIES = 3
# nothing is sent to log in here, only the host key or a file is looked at again
LOOK_AGAIN_S = 30.0


class Cause(StrEnum):
    """Why there is no connection."""

    NETWORK = "network"
    LOGIN = "login"
    HOST_KEY = "host_key"
    UNANSWERED = "unanswered"
    CONFIGURATION = "configuration"


@dataclass(frozen=True)
class NextTry:
    """The state until then, and the seconds to wait; None waits for a person's `connect`."""

    state: TunnelState
    delay_s: float | None


def cause_of(error: BouchetError) -> Cause:
    """The cause that an error of a connection attempt stands for."""
    if isinstance(error, PromptUnansweredError):
        return Cause.UNANSWERED
    if isinstance(error, HostKeyRefusedError):
        return Cause.HOST_KEY
    if isinstance(error, LoginRefusedError):
        return Cause.LOGIN
    return Cause.CONFIGURATION if isinstance(error, ConfigurationError) else Cause.NETWORK


def next_try(cause: Cause, streak: int, chance: float) -> NextTry:
    """What to do after the `streak`-th failure in a row (from 1). chance: a random number in [0, 1) for jitter."""
    if cause is Cause.UNANSWERED:
        return NextTry(TunnelState.NEEDS_HUMAN, None)
    if cause is Cause.LOGIN:
        delay = None if streak >= LOGIN_TRIES else LOGIN_FIRST_S * 2 ** (streak - 1)
        return NextTry(TunnelState.REFUSED, delay)
    if cause is Cause.NETWORK:
        return NextTry(TunnelState.DOWN, network_delay_s(streak, chance))
    return NextTry(TunnelState.REFUSED, LOOK_AGAIN_S)


def network_delay_s(streak: int, chance: float) -> float:
    """Doubles from a quarter of a second to two, later fifteen; jitter takes up to a quarter of it away."""
    cap = NETWORK_CAP_S if streak < NETWORK_PATIENT_AFTER else NETWORK_PATIENT_CAP_S
    return float(min(cap, NETWORK_FIRST_S * 2 ** min(streak - 1, 16))) * (1 - chance / 4)
