"""Commands and files on the login node: checked against the allowlist, queued and bounded, over the one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bouchet_core.errors import RemoteTimeoutError, TunnelDownError

from .allowlist import Allowlist
from .errors import BadRequestError
from .settings import GatewayLimits
from .ssh.session import CommandResult, Session
from .ssh.tunnel import Tunnel

# what a command should have left of its time when it is started
MIN_RUN_S = 0.5


class RemoteCommands:
    """Runs commands and transfers files on the login node. All methods raise GatewayError subclasses."""

    def __init__(self, tunnel: Tunnel, allowlist: Allowlist, limits: GatewayLimits) -> None:
        self._tunnel, self._allowlist, self._limits = tunnel, allowlist, limits
        # a Semaphore wakes its waiters first come, first served
        self._places = asyncio.Semaphore(limits.commands)
        self.running = 0

    async def run(self, argv: Sequence[str], stdin: str | None, timeout_s: float) -> CommandResult:
        """Run a command of the allowlist. One that only reads is run a second time when the connection was lost."""
        self._allowlist.check_argv(argv, stdin)
        if timeout_s > self._limits.command_timeout_s:
            raise BadRequestError(f"timeout_s may be at most {self._limits.command_timeout_s:g}")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        attempts = 2 if self._allowlist.is_repeatable(argv) else 1
        while True:
            attempts -= 1
            async with self._place(timeout_s, deadline) as session:
                try:
                    return await session.run(argv, stdin, deadline - loop.time(), self._limits.output_bytes)
                except (TunnelDownError, RemoteTimeoutError):
                    # only a lost connection is worth a second attempt; a slow command would be slow again
                    if not attempts or not session.lost.done() or loop.time() >= deadline:
                        raise

    async def put(self, path: str, data: bytes, mode: int) -> None:
        """Write a file whole or not at all. mode: permission bits."""
        target = self._allowlist.writable_path(path, data)
        if not 0 <= mode <= 0o777:
            raise BadRequestError(f"mode {mode:o} is not a set of permission bits such as 600")
        session = await self._tunnel.session(self._limits.file_hold_s)
        async with _time_limit(self._limits.file_timeout_s, f"writing {path}"):
            await session.files.put(target, data, mode)

    async def get(self, path: str, offset: int, max_bytes: int, *, logs_only: bool = False) -> tuple[bytes, int]:
        """Return bytes of a file from `offset` (negative: from its end), and the file's size. logs_only: of jobs."""
        target = self._allowlist.log_path(path) if logs_only else self._allowlist.allowed_path(path)
        session = await self._tunnel.session(self._limits.file_hold_s)
        async with _time_limit(self._limits.file_timeout_s, f"reading {path}"):
            return await session.files.get(target, offset, max_bytes)

    @asynccontextmanager
    async def _place(self, timeout_s: float, deadline: float) -> AsyncIterator[Session]:
        """Acquire a command slot and the session before the deadline."""
        try:
            # a command that would certainly be cut off is better not started
            async with asyncio.timeout_at(deadline - min(MIN_RUN_S, timeout_s / 4)):
                await self._places.acquire()
        except TimeoutError as exc:
            raise TunnelDownError(
                f"not started: {self._limits.commands} commands are running already; try again"
            ) from exc
        self.running += 1
        try:
            left_s = deadline - asyncio.get_running_loop().time()
            yield await self._tunnel.session(min(self._limits.hold_s, left_s))
        finally:
            self.running -= 1
            self._places.release()


@asynccontextmanager
async def _time_limit(limit_s: float, action: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as exc:
        raise RemoteTimeoutError(f"{action} did not finish within {limit_s:g} s") from exc
