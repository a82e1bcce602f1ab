"""One SSH connection that is up: its commands, channels, files over SFTP, and connections to compute nodes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, cast

import asyncssh
from bouchet_core import errors
from bouchet_core.tunnel import SlotTarget

from .connect import Connector, Login
from .failures import mapped_error, mapped_errors
from .fast_path.switch import disable_fast_path, use_fast_path
from .login_shell import LoginShell, MarkedOutput, start_sftp, unread_error
from .nodes import NodeConnections

REMOVE_TIMEOUT_S = 2.0


class RemoteFiles:
    """Reads and writes files over one SFTP session, which is opened when first needed and replaced when it broke."""

    def __init__(self, connection: asyncssh.SSHClientConnection, host: str, shell: LoginShell) -> None:
        self._connection, self._host, self._shell = connection, host, shell
        self._client: asyncssh.SFTPClient | None = None
        self._client_lock = asyncio.Lock()
        # two tasks that create the same folder at the same time would fail
        self._folders_lock = asyncio.Lock()
        self._created_at: dict[str, float] = {}

    async def put(self, path: str, data: bytes, mode: int) -> None:
        """Write a file whole or not at all, missing parents with mode 0700."""
        async with self._sftp(f"cannot write {path}") as sftp:
            target = _sftp_path(path)
            folder, _, name = target.rpartition("/")
            part = f"{folder}/.{name}.{secrets.token_hex(4)}.part" if folder else f".{name}.part"
            try:
                await self._write(sftp, part, data, mode)
                await sftp.posix_rename(part, target)
            except BaseException:
                with contextlib.suppress(asyncssh.Error, OSError, TimeoutError):
                    await asyncio.wait_for(asyncio.shield(sftp.remove(part)), REMOVE_TIMEOUT_S)
                raise

    async def get(self, path: str, offset: int, max_bytes: int) -> tuple[bytes, int]:
        """Return bytes from `offset` (negative: from the end), and the file's size."""
        async with self._sftp(f"cannot read {path}") as sftp, sftp.open(_sftp_path(path), "rb") as file:
            size = (await file.stat()).size or 0
            start = offset if offset >= 0 else max(0, size + offset)
            data = await file.read(max_bytes, start)
            return bytes(cast(bytes, data)), size

    async def round_trip_s(self, timeout_s: float) -> float:
        """Measure the seconds of the smallest request to the login node and its answer."""
        async with self._sftp("cannot measure the round trip") as sftp, asyncio.timeout(timeout_s):
            await sftp.realpath(".")
            # uvloop's own clock counts whole milliseconds
            began = time.perf_counter()
            await sftp.realpath(".")
            return time.perf_counter() - began

    async def _write(self, sftp: asyncssh.SFTPClient, path: str, data: bytes, mode: int) -> None:
        attrs = asyncssh.SFTPAttrs(permissions=mode & 0o700)
        try:
            file = await sftp.open(path, "wb", attrs)
        except asyncssh.SFTPNoSuchFile:
            await self._make_folder(sftp, path.rpartition("/")[0])
            file = await sftp.open(path, "wb", attrs)
        async with file:
            await file.write(data)
            await file.chmod(mode)
            # not every SFTP server supports fsync
            with contextlib.suppress(asyncssh.SFTPOpUnsupported):
                await file.fsync()

    async def _make_folder(self, sftp: asyncssh.SFTPClient, folder: str) -> None:
        """Create a folder and its parents, unless another task created it while this one waited for the lock."""
        missing_at = time.monotonic()
        async with self._folders_lock:
            if self._created_at.get(folder, 0.0) <= missing_at:
                await sftp.makedirs(folder, asyncssh.SFTPAttrs(permissions=0o700), exist_ok=True)
                self._created_at[folder] = time.monotonic()

    @contextlib.asynccontextmanager
    async def _sftp(self, action: str) -> AsyncIterator[asyncssh.SFTPClient]:
        with mapped_errors(action):
            async with self._client_lock:
                if self._client is None:
                    self._client = await self._start_client(action)
            try:
                yield self._client
            except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
                self._client = None
                raise

    async def _start_client(self, action: str) -> asyncssh.SFTPClient:
        try:
            return await start_sftp(self._connection, self._shell, action)
        except asyncssh.ChannelOpenError as exc:
            # the connection is full or lost, which is no fault of the file
            raise errors.TunnelDownError(f"{action}: {self._host} opened no SFTP session: {exc.reason}") from exc


def _sftp_path(path: str) -> str:
    """Return the path for SFTP, which starts in the home directory and does not expand `~`."""
    return "." if path in ("~", "~/") else path.removeprefix("~/")


# bytes that a stalled reader may keep in memory, per channel; 64 of them stay below 64 MiB
CHANNEL_WINDOW = 512 << 10
CLOSE_TIMEOUT_S = 2.0
NO_STATUS = 255
_SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "ABRT": 6, "KILL": 9, "SEGV": 11, "PIPE": 13, "ALRM": 14, "TERM": 15}

_ChannelAndSession = tuple[Any, Any]


@dataclass(frozen=True)
class CommandResult:
    """A command that ended. `truncated`: its output exceeded the limit and was cut."""

    exit_status: int
    stdout: str
    stderr: str
    truncated: bool


class _OutputCollector(asyncssh.SSHClientSession[bytes]):
    """Collects the output of a command, up to `limit` bytes per stream; the rest is discarded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._streams: dict[int | None, MarkedOutput] = {}
        self.exit_status: int | None = None
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        self.stream(datatype).feed(data)

    def exit_status_received(self, status: int) -> None:
        self.exit_status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        # shells report a signal as 128 + its number
        self.exit_status = 128 + _SIGNALS[signal] if signal in _SIGNALS else NO_STATUS

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(exc)

    def stream(self, datatype: int | None) -> MarkedOutput:
        return self._streams.setdefault(datatype, MarkedOutput(self._limit))

    @property
    def truncated(self) -> bool:
        return any(stream.truncated for stream in self._streams.values())


class Session:
    """One SSH connection that is up. `lost` is done, with the reason, when it no longer is."""

    def __init__(self, login: Login, host: str, connector: Connector) -> None:
        """connector: opens the connections to compute nodes (`via: node`)."""
        self._connection, self.lost, self.host = login.connection, login.lost, host
        self._always_via_node = connector.via_node
        self._shell = connector.shell
        self.files = RemoteFiles(login.connection, host, self._shell)
        self.nodes = NodeConnections(connector, login.connection, self.files.get)

    async def close(self) -> None:
        """Close the connection; abort it when the server does not confirm in time."""
        self.nodes.close()
        disable_fast_path(self._connection)
        self._connection.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._connection.wait_closed()
        except TimeoutError:
            self._connection.abort()

    async def run(self, argv: Sequence[str], stdin: str | None, timeout_s: float, limit: int) -> CommandResult:
        """Run a command to its end, keeping `limit` bytes of each output stream.

        Raises TunnelDownError when it certainly did not start, RemoteTimeoutError when that is unknown.
        """
        collector = _OutputCollector(limit)
        unknown = f"{argv[0]} on {self.host} may or may not have run"
        deadline = asyncio.get_running_loop().time() + timeout_s
        channel = await self._start(collector, argv, timeout_s, unknown)
        try:
            async with asyncio.timeout_at(deadline):
                if stdin is not None:
                    channel.write(stdin.encode())
                channel.write_eof()
                lost = await collector.ended
        except TimeoutError as exc:
            raise errors.RemoteTimeoutError(f"{argv[0]} did not end within {timeout_s:g} s and was killed") from exc
        except OSError as exc:
            raise errors.RemoteTimeoutError(f"{unknown}: {exc}") from exc
        finally:
            _kill(channel)
        if collector.exit_status is None:
            reason = lost or (self.lost.result() if self.lost.done() else "the server sent no exit status")
            raise errors.RemoteTimeoutError(f"{unknown}: {reason}")
        stdout, stderr = collector.stream(None), collector.stream(asyncssh.EXTENDED_DATA_STDERR)
        if not stdout.has_begun:
            raise unread_error(argv, self.host, stdout.text(), stderr.text())
        return CommandResult(collector.exit_status, stdout.text(), stderr.text(), collector.truncated)

    async def _start(self, collector: _OutputCollector, argv: Sequence[str], timeout_s: float, unknown: str) -> Any:
        opening = self._connection.create_session(
            lambda: collector, self._shell.command_line(argv, timeout_s), encoding=None
        )
        try:
            channel, _ = await _opened(opening, timeout_s)
        except TimeoutError as exc:
            raise errors.RemoteTimeoutError(f"{unknown}: no answer within {timeout_s:g} s") from exc
        except asyncssh.ChannelOpenError as exc:
            # an accepted session refuses its command only when the connection is lost
            if exc.code == asyncssh.OPEN_REQUEST_SESSION_FAILED:
                raise errors.RemoteTimeoutError(f"{unknown}: {exc.reason}") from exc
            raise errors.TunnelDownError(
                f"{argv[0]} was not started: {self.host} opened no session: {exc.reason}"
            ) from exc
        except (asyncssh.Error, OSError) as exc:
            raise errors.RemoteTimeoutError(f"{unknown}: {exc}") from exc
        return channel

    async def open_channel(self, target: SlotTarget, factory: Callable[[], asyncio.Protocol], timeout_s: float) -> None:
        """Open a channel to the target, with a protocol made by `factory`.

        Raises TunnelDownError when the SSH connection broke, RemoteFileError when nothing listens at the target.
        """
        if target.on_node or self._always_via_node:
            async with self.nodes.connected(target.node) as connection:
                opening = _open_direct_channel(connection, target, "127.0.0.1", factory)
                channel = await self._wait_opened(opening, connection, target.node, target.place, timeout_s)
                self.nodes.keep_for(target.node, channel)
        else:
            opening = _open_direct_channel(self._connection, target, target.node, factory)
            channel = await self._wait_opened(opening, self._connection, self.host, target.place, timeout_s)
        use_fast_path(channel)

    async def _wait_opened(
        self,
        opening: Awaitable[_ChannelAndSession],
        connection: asyncssh.SSHClientConnection,
        host: str,
        place: str,
        timeout_s: float,
    ) -> Any:
        try:
            return (await _opened(opening, timeout_s))[0]
        except TimeoutError as exc:
            raise errors.RemoteFileError(f"{place} did not answer within {timeout_s:g} s") from exc
        except (asyncssh.Error, OSError) as exc:
            if self.lost.done() or connection.is_closed():
                raise errors.TunnelDownError(f"the SSH connection to {host} was lost: {exc}") from exc
            raise mapped_error(exc, f"no connection from {host} to {place}") from exc


def _open_direct_channel(
    connection: asyncssh.SSHClientConnection,
    target: SlotTarget,
    address: str,
    factory: Callable[[], asyncio.Protocol],
) -> Awaitable[_ChannelAndSession]:
    """Open a channel to the target's socket, else to its port at that address as the far side sees it."""
    if target.socket is not None:
        to_socket = cast("Callable[[], asyncssh.SSHUNIXSession[bytes]]", factory)
        return connection.create_unix_connection(to_socket, target.socket, window=CHANNEL_WINDOW)
    to_port = cast("Callable[[], asyncssh.SSHTCPSession[bytes]]", factory)
    return connection.create_connection(to_port, address, target.port or 0, window=CHANNEL_WINDOW)


def _kill(channel: Any) -> None:
    """End a command that may still run. The line's own time limit covers the cases where this is not enough."""
    with contextlib.suppress(OSError):
        channel.kill()
    channel.abort()


async def _opened(opening: Awaitable[_ChannelAndSession], timeout_s: float) -> _ChannelAndSession:
    """Wait for a channel. One that opens after the timeout is closed then, so that none leaks."""
    task = asyncio.ensure_future(cast("Coroutine[Any, Any, _ChannelAndSession]", opening))
    try:
        return await asyncio.wait_for(asyncio.shield(task), timeout_s)
    except (TimeoutError, asyncio.CancelledError):
        task.add_done_callback(_close_late_channel)
        raise


def _close_late_channel(task: asyncio.Task[_ChannelAndSession]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result()[0].abort()
