"""The account's login shell on the cluster: commands and files work whatever it is and whatever its start-up prints.

sshd hands a command line to the login shell (bash, tcsh, fish, zsh), which reads start-up files first. These may print
text, which would stand before the output of every command and within SFTP's packets. So a line goes to `sh`, which
prints a marker before the program begins, and what comes before the marker is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import shlex
from collections.abc import Sequence
from typing import Any

import asyncssh
from asyncssh import sftp
from bouchet_core import errors

# printed on a line of its own before the output of each command
MARKER = "--bouchet-output--"
_MARKER_LINE = f"{MARKER}\n".encode()
# text of start-up files that is shown in messages
MAX_SHOWN = 200
MAX_NOISE_BYTES = 1 << 20
SFTP_START_S = 10.0
REMOTE_GRACE_S = 2
# Slurm prints times as seconds since 1970: sites set `relative`, which has no date, and no format of Slurm's has a zone
REMOTE_ENVIRONMENT = "SLURM_TIME_FORMAT=%s"
# messages of shells and programs are recognized in English; a job that is submitted inherits it
ENGLISH = "LC_MESSAGES=C; export LC_MESSAGES; "
SLURM_PROGRAMS = frozenset({"sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr", "sshare", "sprio"})
# where OpenSSH's SFTP server is on RHEL, Debian, SUSE and others
SFTP_SERVERS = (
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib64/ssh/sftp-server",
)
SILENCE = (
    "make it silent in shells without a terminal, with `[[ $- == *i* ]] || return` at the top of ~/.bashrc or "
    "`if (! $?prompt) exit` in ~/.cshrc"
)
_HOME_OPTION = re.compile(r"^(--[a-z-]+=)?~/")


class LoginShell:
    """Makes command lines for one site. path: folders before the PATH; prefix: words before Slurm's programs."""

    def __init__(self, path: Sequence[str] = (), prefix: Sequence[str] = ()) -> None:
        self._path, self._prefix = tuple(path), tuple(prefix)

    def command_line(self, argv: Sequence[str], timeout_s: float) -> str:
        """Return the line to run, with a time limit of its own on the login node.

        sshd ignores our signal for root and before version 7.9, and a broken connection carries none; a command that
        hangs would hold one of the few sessions that sshd allows.
        """
        prefix = self._prefix if argv[0] in SLURM_PROGRAMS else ()
        limit_s = math.ceil(timeout_s) + REMOTE_GRACE_S
        # `env`, because sshd accepts no variables from clients and login shells differ in how they set them
        words = f"timeout -s KILL {limit_s} env {REMOTE_ENVIRONMENT} {quoted([*prefix, *argv])}"
        script = f'{ENGLISH}echo {MARKER}; echo {MARKER} >&2; exec "$@"'
        return f"{self._sh(script)} {words}"

    def sftp_line(self) -> str:
        """Return the line that starts an SFTP server after the marker."""
        tries = "; ".join(f"[ -x {path} ] && exec {path}" for path in SFTP_SERVERS)
        return self._sh(f"echo {MARKER}; {tries}; exec sftp-server")

    def _sh(self, script: str) -> str:
        """Return the words that run a script of sh, and `sh` as its $0."""
        folders = ":".join(quoted([folder]) for folder in self._path)
        # in double quotes only within sh: the login shell sees one word in single quotes
        path = f"PATH={folders}:$PATH; export PATH; " if folders else ""
        return f"exec sh -c {shlex.quote(path + script)} sh"


def quoted(argv: Sequence[str]) -> str:
    """Return the command line from which the remote login shell makes exactly these arguments.

    `~/x` and `--option=~/x` mean the remote home; everything else is literal.
    """
    return " ".join(_quoted_argument(argument) for argument in argv)


def _quoted_argument(argument: str) -> str:
    home = _HOME_OPTION.match(argument)
    if not home:
        return shlex.quote(argument)
    rest = argument[home.end() :]
    return f'{home.group(1) or ""}"$HOME"/{shlex.quote(rest) if rest else ""}'


class MarkedOutput:
    """One stream of a command: drops what comes before the marker, then keeps up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._before, self._kept = limit, bytearray(), bytearray()
        self.has_begun = self.truncated = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if not self.has_begun:
            self._before += data
            at = self._before.find(_MARKER_LINE)
            if at < 0:
                # the marker may be cut in two; the beginning is kept for messages
                del self._before[MAX_NOISE_BYTES : -len(_MARKER_LINE)]
                return
            data, self.has_begun = bytes(self._before[at + len(_MARKER_LINE) :]), True
            self._before.clear()
        space = self._limit - len(self._kept)
        self.truncated = self.truncated or len(data) > space
        self._kept += data[:space]

    def text(self) -> str:
        """Return what the command printed; what its shell printed, where that ended before the command began."""
        return bytes(self._kept or self._before).decode("utf-8", errors="replace")


def unread_error(argv: Sequence[str], host: str, output: str, stderr: str) -> errors.TunnelDownError:
    """Return the error for a command whose login shell ended before it began."""
    printed = " ".join(f"{output} {stderr}".split())[:MAX_SHOWN]
    return errors.TunnelDownError(
        f"{argv[0]} was not started: the start-up files of the account's shell on {host} end it"
        + (f" (they print: {printed})" if printed else "")
        + f"; {SILENCE}"
    )


async def start_sftp(connection: asyncssh.SSHClientConnection, shell: LoginShell, action: str) -> asyncssh.SFTPClient:
    """Start an SFTP session; a second way where the account's start-up files print text into the first one."""
    try:
        return await connection.start_sftp_client()
    except asyncssh.SFTPError as exc:
        if connection.is_closed():
            raise
        try:
            async with asyncio.timeout(SFTP_START_S):
                return await _start_after_marker(connection, shell)
        except (asyncssh.Error, OSError, EOFError, ValueError) as second:
            raise errors.RemoteFileError(
                f"{action}: the start-up files of the account's shell print text, which breaks SFTP ({exc}); {SILENCE}"
            ) from second


async def _start_after_marker(connection: asyncssh.SSHClientConnection, shell: LoginShell) -> asyncssh.SFTPClient:
    """Run an SFTP server as a command, and begin to read behind the marker."""
    writer, reader, _ = await connection.open_session(shell.sftp_line(), encoding=None)
    try:
        seen = 0
        while True:
            line = await reader.readuntil(b"\n")
            seen += len(line)
            if line.rstrip() == MARKER.encode():
                break
            if seen > MAX_NOISE_BYTES:
                raise ValueError("too much text")
        return await _client_of(connection, reader, writer)
    except BaseException:
        with contextlib.suppress(OSError):
            writer.channel.abort()
        raise


async def _client_of(connection: asyncssh.SSHClientConnection, reader: Any, writer: Any) -> asyncssh.SFTPClient:
    """Return an SFTP client on an open channel, as asyncssh makes one for its subsystem."""
    loop = asyncio.get_running_loop()
    return await sftp.start_sftp_client(connection, loop, "strict", reader, writer, "utf-8", "strict", 3)
