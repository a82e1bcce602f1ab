"""What callers may do on the cluster: checked against the allow-list, queued, bounded, over the one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bouchet_core.errors import RemoteTimeoutError, TunnelDownError

from .allowlist import Allowlist
from .errors import BadRequestError
from .settings import GatewayLimits
from .ssh.session import Finished, Session
from .ssh.tunnel import Tunnel

LEAST_S = 0.5


class Cluster:
    """Commands and files on the login node. All methods raise GatewayError subclasses."""

    def __init__(self, tunnel: Tunnel, allowlist: Allowlist, limits: GatewayLimits) -> None:
        self._tunnel, self._allowlist, self._limits = tunnel, allowlist, limits
        # a Semaphore wakes its waiters first come, first served
        self._turns = asyncio.Semaphore(limits.commands)
        self.running = 0

    async def run(self, argv: Sequence[str], stdin: str | None, timeout_s: float) -> Finished:
        """Runs a command of the allow-list. Commands that only look are run again when the connection broke."""
        self._allowlist.argv(argv)
        if timeout_s > self._limits.command_timeout_s:
            raise BadRequestError(f"timeout_s may be {self._limits.command_timeout_s:g} at most")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        tries = 2 if self._allowlist.is_repeatable(argv) else 1
        while True:
            tries -= 1
            async with self._turn(timeout_s, deadline) as session:
                try:
                    return await session.run(argv, stdin, deadline - loop.time(), self._limits.output_bytes)
                except (TunnelDownError, RemoteTimeoutError):
                    # only a lost connection is worth another try; a slow command would be slow again
                    if not tries or not session.lost.done() or loop.time() >= deadline:
                        raise

    async def put(self, path: str, data: bytes, mode: int) -> None:
        """Writes a file whole or not at all. mode: permission bits."""
        where = self._allowlist.path(path)
        if not 0 <= mode <= 0o777:
            raise BadRequestError(f"mode {mode:o} is not one of permission bits, such as 600")
        session = await self._tunnel.session(self._limits.file_hold_s)
        async with _ended_within(self._limits.file_timeout_s, f"writing {path}"):
            await session.put(where, data, mode)

    async def get(self, path: str, offset: int, max_bytes: int) -> tuple[bytes, int]:
        """Bytes of a file from `offset` (negative: from its end), and its size."""
        where = self._allowlist.path(path)
        session = await self._tunnel.session(self._limits.file_hold_s)
        async with _ended_within(self._limits.file_timeout_s, f"reading {path}"):
            return await session.get(where, offset, max_bytes)

    @asynccontextmanager
    async def _turn(self, timeout_s: float, deadline: float) -> AsyncIterator[Session]:
        """A place in the row of commands, and the connection. Neither is waited for beyond the deadline."""
        try:
            # a command that is sure to be cut off is better not started
            async with asyncio.timeout_at(deadline - min(LEAST_S, timeout_s / 4)):
                await self._turns.acquire()
        except TimeoutError as exc:
            raise TunnelDownError(f"{self._limits.commands} commands are running already; not started") from exc
        self.running += 1
        try:
            left_s = deadline - asyncio.get_running_loop().time()
            yield await self._tunnel.session(min(self._limits.hold_s, left_s))
        finally:
            self.running -= 1
            self._turns.release()


@asynccontextmanager
async def _ended_within(limit_s: float, doing: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as exc:
        raise RemoteTimeoutError(f"{doing} did not end within {limit_s:g} s") from exc
