"""One SSH session: commands, files and channels over a connection that is logged in."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, cast

import asyncssh
from bouchet_core import errors
from bouchet_core.tunnel import SlotTarget

from .connect import Connector, Login, mapped, mapped_error, quoted
from .fast_path.packets import quieten
from .nodes import Nodes

# what a stalled reader may keep in memory, per channel; 64 of them stay below 64 MiB
CHANNEL_WINDOW = 512 << 10
CLOSE_TIMEOUT_S = 2.0
REMOTE_GRACE_S = 2
NO_STATUS = 255
# Slurm prints times as seconds since 1970: sites set `relative`, which has no date, and no form of its own has a zone
REMOTE_ENVIRONMENT = "SLURM_TIME_FORMAT=%s"
_SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "ABRT": 6, "KILL": 9, "SEGV": 11, "PIPE": 13, "ALRM": 14, "TERM": 15}

_ChannelAndSession = tuple[Any, Any]


@dataclass(frozen=True)
class Finished:
    """A command that ended. `truncated`: more was printed than the limit let through."""

    exit_status: int
    stdout: str
    stderr: str
    truncated: bool


class _Collector(asyncssh.SSHClientSession[bytes]):
    """Takes in what a command prints, up to `limit` bytes per stream; the rest is counted out and dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._streams: dict[int | None, bytearray] = {}
        self.truncated = False
        self.exit_status: int | None = None
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        stream = self._streams.setdefault(datatype, bytearray())
        room = self._limit - len(stream)
        self.truncated = self.truncated or len(data) > room
        stream += data[:room]

    def exit_status_received(self, status: int) -> None:
        self.exit_status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        # shells report a signal as 128 + its number
        self.exit_status = 128 + _SIGNALS[signal] if signal in _SIGNALS else NO_STATUS

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(exc)

    def text(self, datatype: int | None) -> str:
        return self._streams.get(datatype, b"").decode("utf-8", errors="replace")


class Session:
    """One SSH connection that is up. `lost` is done, with the reason, when it no longer is."""

    def __init__(self, login: Login, host: str, connector: Connector) -> None:
        """connector: reaches the compute nodes, for forwards that end there (`via: node`)."""
        self._conn, self.lost, self.host = login.connection, login.lost, host
        self._thrift = login.thrift
        self._always_over_node = connector.via_node
        self.nodes = Nodes(connector, self._conn, self.get)
        self._files: asyncssh.SFTPClient | None = None
        self._files_lock = asyncio.Lock()
        # two that make one folder at the same time would be in each other's way
        self._folders_lock = asyncio.Lock()
        self._made_at: dict[str, float] = {}

    async def close(self) -> None:
        """Ends the connection, politely for a moment, then at once."""
        self.nodes.close()
        self._thrift.end()
        self._conn.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._conn.wait_closed()
        except TimeoutError:
            self._conn.abort()

    async def run(self, argv: Sequence[str], stdin: str | None, timeout_s: float, limit: int) -> Finished:
        """Runs a command to its end. Raises TunnelDownError when it surely did not start, RemoteTimeoutError when unknown."""
        collector = _Collector(limit)
        unknown = f"{argv[0]} on {self.host} may or may not have run"
        deadline = asyncio.get_running_loop().time() + timeout_s
        chan = await self._start(collector, argv, timeout_s, unknown)
        try:
            async with asyncio.timeout_at(deadline):
                if stdin is not None:
                    chan.write(stdin.encode())
                chan.write_eof()
                lost = await collector.ended
        except TimeoutError as exc:
            raise errors.RemoteTimeoutError(f"{argv[0]} did not end within {timeout_s:g} s and was killed") from exc
        except OSError as exc:
            raise errors.RemoteTimeoutError(f"{unknown}: {exc}") from exc
        finally:
            _kill(chan)
        if collector.exit_status is None:
            raise errors.RemoteTimeoutError(f"{unknown}: {lost or self._hung_up()}")
        stderr = collector.text(asyncssh.EXTENDED_DATA_STDERR)
        return Finished(collector.exit_status, collector.text(None), stderr, collector.truncated)

    async def _start(self, collector: _Collector, argv: Sequence[str], timeout_s: float, unknown: str) -> Any:
        opening = self._conn.create_session(lambda: collector, _limited(argv, timeout_s), encoding=None)
        try:
            chan, _ = await _opened(opening, timeout_s)
        except TimeoutError as exc:
            raise errors.RemoteTimeoutError(f"{unknown}: no answer within {timeout_s:g} s") from exc
        except asyncssh.ChannelOpenError as exc:
            # nothing but a lost connection makes an accepted session fail to take its command
            if exc.code == asyncssh.OPEN_REQUEST_SESSION_FAILED:
                raise errors.RemoteTimeoutError(f"{unknown}: {exc.reason}") from exc
            raise errors.TunnelDownError(f"{argv[0]} was not started: {self.host} said: {exc.reason}") from exc
        except (asyncssh.Error, OSError) as exc:
            raise errors.RemoteTimeoutError(f"{unknown}: {exc}") from exc
        return chan

    def _hung_up(self) -> str:
        return self.lost.result() if self.lost.done() else "the server closed it without a status"

    async def open_channel(self, target: SlotTarget, factory: Callable[[], asyncio.Protocol], timeout_s: float) -> None:
        """Opens a connection to the target over there and gives it to a protocol made by `factory`.

        Raises TunnelDownError when the SSH connection broke, RemoteFileError when nothing answers there.
        """
        over_node = target.on_node or self._always_over_node
        way = await self.nodes.through(target.node) if over_node else self._conn
        host = target.node if over_node else self.host
        opening = _opening(way, target, "127.0.0.1" if over_node else target.node, factory)
        try:
            quieten((await _opened(opening, timeout_s))[0])
        except TimeoutError as exc:
            raise errors.RemoteFileError(f"{target.place} did not answer within {timeout_s:g} s") from exc
        except (asyncssh.Error, OSError) as exc:
            if self.lost.done() or way.is_closed():
                raise errors.TunnelDownError(f"the SSH connection to {host} broke: {exc}") from exc
            raise mapped_error(exc, f"no connection from {host} to {target.place}") from exc

    async def put(self, path: str, data: bytes, mode: int) -> None:
        """Writes a file whole or not at all, missing parents with mode 0700."""
        async with self._sftp(f"cannot write {path}") as sftp:
            target = _sftp_path(path)
            folder, _, name = target.rpartition("/")
            sibling = f"{folder}/.{name}.{secrets.token_hex(4)}.part" if folder else f".{name}.part"
            try:
                await self._write(sftp, sibling, data, mode)
                await sftp.posix_rename(sibling, target)
            except BaseException:
                with contextlib.suppress(asyncssh.Error, OSError, TimeoutError):
                    await asyncio.wait_for(asyncio.shield(sftp.remove(sibling)), CLOSE_TIMEOUT_S)
                raise

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
            # not every file server has it
            with contextlib.suppress(asyncssh.SFTPOpUnsupported):
                await file.fsync()

    async def _make_folder(self, sftp: asyncssh.SFTPClient, folder: str) -> None:
        """With its parents; whoever waited while another made it has it."""
        missed_at = time.monotonic()
        async with self._folders_lock:
            if self._made_at.get(folder, 0.0) <= missed_at:
                await sftp.makedirs(folder, asyncssh.SFTPAttrs(permissions=0o700), exist_ok=True)
                self._made_at[folder] = time.monotonic()

    async def get(self, path: str, offset: int, max_bytes: int) -> tuple[bytes, int]:
        """Bytes from `offset` (negative: from the end), and the file's size."""
        async with self._sftp(f"cannot read {path}") as sftp, sftp.open(_sftp_path(path), "rb") as file:
            size = (await file.stat()).size or 0
            start = offset if offset >= 0 else max(0, size + offset)
            data = await file.read(max_bytes, start)
            return bytes(cast(bytes, data)), size

    async def round_trip_s(self, timeout_s: float) -> float:
        """Seconds of the smallest question to the login node and its answer."""
        async with self._sftp("no answer to a look at the connection") as sftp, asyncio.timeout(timeout_s):
            await sftp.realpath(".")
            # uvloop's own clock counts whole milliseconds
            began = time.perf_counter()
            await sftp.realpath(".")
            return time.perf_counter() - began

    @contextlib.asynccontextmanager
    async def _sftp(self, doing: str) -> AsyncIterator[asyncssh.SFTPClient]:
        """The connection's one file server; a broken one is replaced the next time."""
        with mapped(doing):
            async with self._files_lock:
                if self._files is None:
                    self._files = await self._file_server(doing)
            try:
                yield self._files
            except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
                self._files = None
                raise

    async def _file_server(self, doing: str) -> asyncssh.SFTPClient:
        try:
            return await self._conn.start_sftp_client()
        except asyncssh.ChannelOpenError as exc:
            # a full or lost connection, which says nothing about the file
            raise errors.TunnelDownError(f"{doing}: {self.host} opened no session: {exc.reason}") from exc


def _opening(
    way: asyncssh.SSHClientConnection, target: SlotTarget, address: str, factory: Callable[[], asyncio.Protocol]
) -> Awaitable[_ChannelAndSession]:
    """A channel to the target's socket, else to its port at that address, on the far side of the connection."""
    if target.socket is not None:
        to_socket = cast("Callable[[], asyncssh.SSHUNIXSession[bytes]]", factory)
        return way.create_unix_connection(to_socket, target.socket, window=CHANNEL_WINDOW)
    to_port = cast("Callable[[], asyncssh.SSHTCPSession[bytes]]", factory)
    return way.create_connection(to_port, address, target.port or 0, window=CHANNEL_WINDOW)


def _limited(argv: Sequence[str], timeout_s: float) -> str:
    """The line to run, ended over there too when our signal does not arrive.

    sshd passes no signals for root and before 7.9, and none come through a broken connection; a command that hangs on
    would hold one of the few sessions that sshd allows.
    """
    # `env`, because sshd takes no variables from clients and login shells differ in how they set them
    return f"timeout -s KILL {math.ceil(timeout_s) + REMOTE_GRACE_S} env {REMOTE_ENVIRONMENT} {quoted(argv)}"


def _sftp_path(path: str) -> str:
    """SFTP starts in the home directory and knows no `~`."""
    return "." if path in ("~", "~/") else path.removeprefix("~/")


def _kill(chan: Any) -> None:
    """Ends a command that may still run. See `_limited` for when this is not enough."""
    with contextlib.suppress(OSError):
        chan.kill()
    chan.abort()


async def _opened(opening: Awaitable[_ChannelAndSession], timeout_s: float) -> _ChannelAndSession:
    """Waits for a channel. One that opens after we gave up is closed then, so that none leaks."""
    task = asyncio.ensure_future(cast("Coroutine[Any, Any, _ChannelAndSession]", opening))
    try:
        return await asyncio.wait_for(asyncio.shield(task), timeout_s)
    except (TimeoutError, asyncio.CancelledError):
        task.add_done_callback(_close_late)
        raise


def _close_late(task: asyncio.Task[_ChannelAndSession]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result()[0].abort()
