"""A real SSH server, a real Redis, and a gateway between them, all in the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
import httpx
import pytest
from bouchet_core.config.site import Partition, Site, SiteImage, SiteLogin
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase
from bouchet_core.store import Store
from bouchet_core.tunnel import TunnelState, TunnelStatus
from bouchet_gateway.gateway import Gateway
from bouchet_gateway.settings import GatewayLimits, GatewaySettings, SshSettings
from pydantic import SecretStr

TOKEN = "test-token"
USER = "researcher"


@dataclass
class Script:
    """What the login node asks: one list of (prompt, echo) a round, and whether the answers are right."""

    rounds: list[tuple[str, list[tuple[str, bool]]]]
    right: Callable[[list[str]], bool]
    notice_at_end: bool = True
    seen: list[list[str]] = field(default_factory=list)


class _Server(asyncssh.SSHServer):
    def __init__(self, node: LoginNode) -> None:
        self._node = node
        self._round = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._node.accepted += 1
        self._node.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._node.connections.discard(self._conn)

    async def begin_auth(self, username: str) -> bool:
        if self._node.denial:
            # as OpenSSH does when PAM's account check fails
            self._conn.send_auth_banner(self._node.denial)
            self._conn.disconnect(asyncssh.DISC_CONNECTION_LOST, "")
        await asyncio.sleep(self._node.slow_login_s)
        self._node.logins.append(username)
        return True

    def public_key_auth_supported(self) -> bool:
        return self._node.script is None

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key.get_fingerprint() == self._node.accepted_key.get_fingerprint()

    def kbdint_auth_supported(self) -> bool:
        return self._node.script is not None

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> object:
        assert self._node.script is not None
        self._round = 0
        title, prompts = self._node.script.rounds[0]
        return "Duo", title, "en", prompts

    def validate_kbdint_response(self, username: str, responses: list[str]) -> object:
        script = self._node.script
        assert script is not None
        if self._round >= len(script.rounds):
            return not responses
        script.seen.append(list(responses))
        self._round += 1
        if not script.right(list(responses)):
            return False
        if self._round < len(script.rounds):
            title, prompts = script.rounds[self._round]
            return "Duo", title, "en", prompts
        return ("", "Success. Logging you in...", "en", []) if script.notice_at_end else True

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        self._node.channels += 1
        return True

    def unix_connection_requested(self, dest_path: str) -> bool:
        self._node.channels += 1
        self._node.sockets.append(dest_path)
        return True


class LoginNode:
    """A login node: logs in by key or by prompts, runs commands for real, serves files, opens TCP connections."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.ssh_dir = directory / "ssh"
        self.home.mkdir()
        self.ssh_dir.mkdir()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.accepted_key = self.user_key
        self.script: Script | None = None
        self.port = 0
        self.slow_login_s = 0.0
        self.denial = ""
        self.sockets: list[str] = []
        self.rekey_bytes = 1 << 30
        self.accepted = self.channels = 0
        self.logins: list[str] = []
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.commands: list[str] = []
        self.run: Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]] = self.shell
        self._running: set[asyncio.Task[None]] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self.user_key.write_private_key(str(self.ssh_dir / "id_ed25519"))

    async def start(self) -> None:
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=lambda: _Server(self),
            server_host_keys=[self.host_key],
            process_factory=self._process,
            sftp_factory=lambda chan: _Files(chan, self.home),
            encoding=None,
            allow_scp=False,
            rekey_bytes=self.rekey_bytes,
        )
        if not self.port:
            self.port = self._acceptor.get_port()
            self.trust(self.host_key)

    async def stop(self) -> None:
        assert self._acceptor is not None
        self._acceptor.close()
        for connection in list(self.connections):
            connection.abort()
            await connection.wait_closed()
        await self._acceptor.wait_closed()
        if self._running:
            await asyncio.wait(self._running, timeout=2)

    def cut(self) -> None:
        """Breaks every connection; new ones are welcome."""
        for connection in list(self.connections):
            connection.abort()

    def trust(self, key: asyncssh.SSHKey) -> None:
        public = key.export_public_key().decode().strip()
        (self.ssh_dir / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}\n")

    async def _process(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.commands.append(process.command or "")
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await self.run(process)

    async def shell(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Runs the line as a login shell would, with the stubs of Slurm first on the path."""
        env = {"HOME": str(self.home), "PATH": f"{self.home}/bin:{os.environ['PATH']}"}
        child = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            process.command or "",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=self.home,
            start_new_session=True,
        )
        talk = asyncio.ensure_future(child.communicate(await process.stdin.read()))
        closed = asyncio.ensure_future(process.channel.wait_closed())
        await asyncio.wait({talk, closed}, return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if not talk.done():
            # the children of the shell hold its pipes: they go too
            os.killpg(child.pid, signal.SIGKILL)
        stdout, stderr = await talk
        with contextlib.suppress(OSError):
            process.stdout.write(stdout)
            process.stderr.write(stderr)
            process.exit(child.returncode or 0)

    def program(self, name: str, text: str) -> None:
        """Puts a program on the login node's path."""
        path = self.home / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)


class _Files(asyncssh.SFTPServer):
    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], home: Path) -> None:
        super().__init__(chan)
        self._home = str(home).encode()

    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self._home, path)  # noqa: PTH118 - SFTP paths are bytes


def make_site(node: LoginNode) -> Site:
    return Site(
        name="test",
        login=SiteLogin(host="127.0.0.1", port=node.port, user=USER),
        root="~/bouchet",
        models_dir=str(node.home / "models"),
        images_dir="~/images",
        default_image="x",
        images=(SiteImage(pin="x", vllm="0"),),
        partitions=(Partition(name="gpu", max_walltime="1:00:00"),),
    )


def make_settings(node: LoginNode, **changes: object) -> GatewaySettings:
    ssh = SshSettings(
        hosts=("127.0.0.1",),
        ssh_dir=node.ssh_dir,
        data_dir=node.ssh_dir.parent / "data",
        user=USER,
        port=node.port,
        keepalive_interval_s=0.2,
        connect_timeout_s=2,
    )
    settings = GatewaySettings(
        ssh=ssh,
        site=make_site(node),
        gateway_token=SecretStr(TOKEN),
        redis_host="",
        redis_port=0,
        redis_password=SecretStr(""),
        limits=GatewayLimits(hold_s=20, open_timeout_s=2),
        slot_host="127.0.0.1",
        slot_base_port=0,
        slot_count=2,
        prompt_timeout_s=5,
    )
    return settings.model_copy(update=changes)


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Waits for something that can only be looked at from outside."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def reached(gateway: Gateway, state: TunnelState, within_s: float = 30.0) -> TunnelStatus:
    """The status once the tunnel is in that state."""
    await until(lambda: gateway.tunnel.status().state is state, within_s)
    return gateway.tunnel.status()


def serve_behind(store: Store, slot: int, port: int | None, node: str = "127.0.0.1", **where: Any) -> None:
    """A record whose job listens there, behind that slot. where: further fields of the job."""
    now = datetime.now(UTC)
    job = Job(name=f"job-{slot}", slot=slot, phase=Phase.READY, node=node, port=port, **where)
    first = Deployment(
        id=f"d{slot}",
        model="m",
        names=(f"name-{slot}",),
        request=LaunchRequest(model="m"),
        phase=Phase.READY,
        created_at=now,
        updated_at=now,
    )
    store.create(first)
    store.save(first.with_job(job, now))


@pytest.fixture
async def login_node(tmp_path: Path) -> AsyncIterator[LoginNode]:
    node = LoginNode(tmp_path)
    await node.start()
    yield node
    await node.stop()


@pytest.fixture
async def gateway(login_node: LoginNode, store: Store) -> AsyncIterator[Gateway]:
    """A gateway that is connected to the login node."""
    gateway = Gateway(make_settings(login_node), store)
    async with gateway.running():
        await reached(gateway, TunnelState.UP)
        yield gateway


@pytest.fixture
async def door(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with door_of(gateway) as client:
        yield client


def door_of(gateway: Gateway, token: str = TOKEN) -> httpx.AsyncClient:
    """A client at the gateway's inside door."""
    transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport, base_url="http://gateway", headers={"Authorization": f"Bearer {token}"}
    )


@contextlib.asynccontextmanager
async def tcp_server(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A TCP server of the test's own; its port."""
    talks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await handle(reader, writer)
        finally:
            talks.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        if talks:
            _, left = await asyncio.wait(talks, timeout=1)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
