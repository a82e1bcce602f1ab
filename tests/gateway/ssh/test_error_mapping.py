"""Every exception of asyncssh becomes an error of ours."""

from __future__ import annotations

import inspect
from typing import Any

import asyncssh
import pytest
from bouchet_core import errors
from bouchet_core.errors import BouchetError
from bouchet_gateway.errors import HostKeyRefusedError, LoginRefusedError
from bouchet_gateway.ssh.failures import mapped_error, mapped_errors

FOREIGN = [cls for _, cls in inspect.getmembers(asyncssh, inspect.isclass) if issubclass(cls, Exception)]
ARGUMENTS: dict[str, object] = {"signal": "TERM", "msec": 1, "width": 1, "height": 1, "pixwidth": 1, "pixheight": 1}


def instance_of(cls: Any) -> Exception:
    """Create an instance of that exception class, whatever arguments its constructor needs."""
    if cls is asyncssh.ProcessError or cls is asyncssh.TimeoutError:
        arguments: list[object] = [{}, "cmd", None, 1, None, 1, "", ""]
    else:
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        values = {"code": 1, "reason": "because", "prompt": "p", "lang": "en", **ARGUMENTS}
        arguments = [values.get(p.name, "because") for p in needed]
    error: Exception = cls(*arguments)
    return error


@pytest.mark.parametrize("cls", FOREIGN, ids=lambda cls: cls.__name__)
def test_mapped_error_of_every_class_names_the_action(cls: type[Exception]) -> None:
    error = mapped_error(instance_of(cls), "doing something")
    assert isinstance(error, BouchetError)
    assert "doing something" in str(error)


@pytest.mark.parametrize("cls", FOREIGN, ids=lambda cls: cls.__name__)
def test_mapped_errors_raises_only_ours(cls: type[Exception]) -> None:
    with pytest.raises(BouchetError) as caught, mapped_errors("doing something"):
        raise instance_of(cls)
    assert isinstance(caught.value.__cause__, cls)


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (asyncssh.SFTPNoSuchFile("x"), errors.RemoteFileMissingError),
        (asyncssh.SFTPPermissionDenied("x"), errors.RemoteFileError),
        (asyncssh.SFTPNoSpaceOnFilesystem("x"), errors.RemoteFileError),
        (asyncssh.SFTPQuotaExceeded("x"), errors.RemoteFileError),
        (asyncssh.SFTPConnectionLost("x"), errors.TunnelDownError),
        (asyncssh.ConnectionLost("x"), errors.TunnelDownError),
        (asyncssh.HostKeyNotVerifiable("x"), HostKeyRefusedError),
        (asyncssh.KeyExchangeFailed("No matching host key algorithm"), HostKeyRefusedError),
        (asyncssh.KeyExchangeFailed("No matching cipher"), errors.TunnelDownError),
        (asyncssh.PermissionDenied("x"), LoginRefusedError),
        (asyncssh.DisconnectError(2, "Too many authentication failures"), LoginRefusedError),
        (asyncssh.ConfigParseError("x"), errors.ConfigurationError),
        (ConnectionRefusedError(111, "x"), errors.TunnelDownError),
        (TimeoutError("x"), errors.TunnelDownError),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_mapped_errors_class(foreign: Exception, ours: type[BouchetError]) -> None:
    with pytest.raises(ours) as caught, mapped_errors("x"):
        raise foreign
    assert type(caught.value) is ours
