"""Quoting and the mapping of foreign errors."""

from __future__ import annotations

import inspect
import os
import subprocess
from pathlib import Path

import asyncssh
import pytest
from bouchet_core import errors
from bouchet_core.errors import BouchetError
from bouchet_gateway.errors import HostKeyRefusedError, LoginRefusedError
from bouchet_gateway.ssh.error_mapping import mapped_error, mapped_errors
from bouchet_gateway.ssh.session import quoted
from hypothesis import given, settings
from hypothesis import strategies as st

FOREIGN = [cls for _, cls in inspect.getmembers(asyncssh, inspect.isclass) if issubclass(cls, Exception)]
ARGUMENTS: dict[str, object] = {"signal": "TERM", "msec": 1, "width": 1, "height": 1, "pixwidth": 1, "pixheight": 1}


def made(cls: type[Exception]) -> Exception:
    """An instance of that exception class, whatever its constructor wants."""
    if cls is asyncssh.ProcessError or cls is asyncssh.TimeoutError:
        return cls({}, "cmd", None, 1, None, 1, "", "")
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    values = {"code": 1, "reason": "because", "prompt": "p", "lang": "en", **ARGUMENTS}
    return cls(*(values.get(p.name, "because") for p in needed))


@pytest.mark.parametrize("cls", FOREIGN, ids=lambda cls: cls.__name__)
def test_every_foreign_exception_becomes_one_of_ours(cls: type[Exception]) -> None:
    error = mapped_error(made(cls), "doing something")
    assert isinstance(error, BouchetError)
    assert "doing something" in str(error)


@pytest.mark.parametrize("cls", FOREIGN, ids=lambda cls: cls.__name__)
def test_nothing_foreign_leaves_the_border(cls: type[Exception]) -> None:
    with pytest.raises(BouchetError) as caught, mapped_errors("doing something"):
        raise made(cls)
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
def test_the_ones_that_matter_are_told_apart(foreign: Exception, ours: type[BouchetError]) -> None:
    with pytest.raises(ours) as caught, mapped_errors("x"):
        raise foreign
    assert type(caught.value) is ours


def shell(line: str, home: Path) -> list[str]:
    """The words that a shell makes of a line."""
    script = f'words() {{ for word in "$@"; do printf \'%s\\0\' "$word"; done; }}; words {line}'
    done = subprocess.run(["sh", "-c", script], env={**os.environ, "HOME": str(home)}, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_the_remote_shell_sees_exactly_the_words(words: list[str]) -> None:
    literal = [word for word in words if not word.startswith(("~/", "--"))]
    assert shell(quoted(literal), Path("/nowhere")) == literal


@pytest.mark.parametrize("home", ["/home/me", "/home/o'neill x"])
def test_home_is_expanded_there_even_with_odd_names(home: str) -> None:
    words = ["~/a 'b'", "~/", "--output=~/x y", "~", "a~/b", "~root/x", "-o=~/x"]
    assert shell(quoted(words), Path(home)) == [
        f"{home}/a 'b'", f"{home}/", f"--output={home}/x y", "~", "a~/b", "~root/x", "-o=~/x",
    ]  # fmt: skip
