"""Maps the exceptions of asyncssh and the system to errors of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import asyncssh
from bouchet_core import errors
from bouchet_core.errors import BouchetError

from bouchet_gateway.errors import HostKeyRefusedError, LoginRefusedError


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
