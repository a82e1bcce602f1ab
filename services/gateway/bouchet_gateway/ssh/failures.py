"""Failures of the connection: how exceptions map to our errors, and when to connect again. Pure: no clock.

Network failures are retried quickly, since a network comes back by itself. Failed logins are not: sites lock accounts,
and every attempt may send a push to a phone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import asyncssh
from bouchet_core import errors
from bouchet_core.errors import BouchetError, ConfigurationError
from bouchet_core.tunnel import TunnelState

from bouchet_gateway.errors import HostKeyRefusedError, LoginRefusedError, PromptUnansweredError


def _ssh_settings_error(message: str) -> BouchetError:
    return errors.ConfigurationError("ssh", message)


# the first match wins, so the narrow ones come first
_MAPPING: tuple[tuple[type[Exception], Callable[[str], BouchetError]], ...] = (
    (asyncssh.SFTPNoSuchFile, errors.RemoteFileMissingError),
    (asyncssh.SFTPNoSuchPath, errors.RemoteFileMissingError),
    (asyncssh.SFTPConnectionLost, errors.TunnelDownError),
    (asyncssh.SFTPNoConnection, errors.TunnelDownError),
    (asyncssh.SFTPError, errors.RemoteFileError),
    (asyncssh.ChannelOpenError, errors.RemoteFileError),
    (asyncssh.ChannelListenError, errors.RemoteFileError),
    (asyncssh.HostKeyNotVerifiable, HostKeyRefusedError),
    (asyncssh.PermissionDenied, LoginRefusedError),
    (asyncssh.IllegalUserName, LoginRefusedError),
    (asyncssh.PasswordChangeRequired, LoginRefusedError),
    (asyncssh.ConfigParseError, _ssh_settings_error),
    (asyncssh.KeyImportError, _ssh_settings_error),
    (asyncssh.KeyExportError, _ssh_settings_error),
    (asyncssh.KeyGenerationError, _ssh_settings_error),
    (asyncssh.KeyEncryptionError, _ssh_settings_error),
    (asyncssh.ProcessError, errors.RemoteTimeoutError),
)

# asyncssh's exceptions have no common base class
_FOREIGN = (
    asyncssh.Error,
    asyncssh.ChannelListenError,
    asyncssh.PasswordChangeRequired,
    asyncssh.BreakReceived,
    asyncssh.SignalReceived,
    asyncssh.TerminalSizeChanged,
    OSError,
    ValueError,
)


def mapped_error(exc: Exception, action: str) -> BouchetError:
    """Return our error for a foreign exception. action: what failed, e.g. `cannot log in to bouchet`."""
    reason = " ".join(str(exc).split()) or type(exc).__name__
    message = f"{action}: {reason}"
    for foreign, ours in _MAPPING:
        if isinstance(exc, foreign):
            return ours(message)
    return errors.TunnelDownError(message)


@contextlib.contextmanager
def mapped_errors(action: str) -> Iterator[None]:
    """Raise foreign exceptions of the block as errors of ours."""
    try:
        yield
    except BouchetError:
        raise
    except asyncssh.KeyExchangeFailed as exc:
        if "host key" in str(exc):
            raise HostKeyRefusedError(f"{action}: {exc}") from exc
        raise mapped_error(exc, action) from exc
    except asyncssh.DisconnectError as exc:
        # OpenSSH ends such a login with a general protocol error code
        if "too many authentication failures" in str(exc).lower():
            raise LoginRefusedError(
                f"{action}: {exc}; the ssh agent offers too many keys: set `IdentitiesOnly yes` in ~/.ssh/config"
            ) from exc
        raise mapped_error(exc, action) from exc
    except _FOREIGN as exc:
        raise mapped_error(exc, action) from exc


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
