"""Files on the login node, over SFTP on the one connection."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from typing import cast

import asyncssh
from bouchet_core import errors

from .failures import mapped_errors

REMOVE_TIMEOUT_S = 2.0


class RemoteFiles:
    """Reads and writes files over one SFTP session, which is opened when first needed and replaced when it broke."""

    def __init__(self, connection: asyncssh.SSHClientConnection, host: str) -> None:
        self._connection, self._host = connection, host
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
            return await self._connection.start_sftp_client()
        except asyncssh.ChannelOpenError as exc:
            # the connection is full or lost, which is no fault of the file
            raise errors.TunnelDownError(f"{action}: {self._host} opened no SFTP session: {exc.reason}") from exc


def _sftp_path(path: str) -> str:
    """Return the path for SFTP, which starts in the home directory and does not expand `~`."""
    return "." if path in ("~", "~/") else path.removeprefix("~/")
