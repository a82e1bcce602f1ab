"""A login node for tests: a real SSH server in the test's own process, and the settings of a gateway for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh


@dataclass
class PromptScript:
    """The prompts of a login: a title and (prompt, echo) pairs a round, and whether the answers are right."""

    rounds: list[tuple[str, list[tuple[str, bool]]]]
    is_right: Callable[[list[str]], bool]
    notice_at_end: bool = True
    answers: list[list[str]] = field(default_factory=list)


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
        self._node.lost.append(exc)

    async def begin_auth(self, username: str) -> bool:
        if self._node.denial:
            # as OpenSSH does when PAM's account check fails
            self._conn.send_auth_banner(self._node.denial)
            self._conn.disconnect(asyncssh.DISC_CONNECTION_LOST, "")
        await asyncio.sleep(self._node.login_delay_s)
        self._node.logins.append(username)
        return True

    def public_key_auth_supported(self) -> bool:
        return self._node.script is None and self._node.password is None

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key.get_fingerprint() == self._node.accepted_key.get_fingerprint()

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return self._node.ca_key is not None and key.get_fingerprint() == self._node.ca_key.get_fingerprint()

    def password_auth_supported(self) -> bool:
        return self._node.password is not None

    def validate_password(self, username: str, password: str) -> bool:
        self._node.passwords.append(password)
        return password == self._node.password

    def kbdint_auth_supported(self) -> bool:
        return self._node.script is not None

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> asyncssh.auth.KbdIntChallenge:
        assert self._node.script is not None
        self._round = 0
        title, prompts = self._node.script.rounds[0]
        return "Duo", title, "en", prompts

    def validate_kbdint_response(self, username: str, responses: object) -> asyncssh.auth.KbdIntChallenge:
        script, answers = self._node.script, list(responses)  # type: ignore[call-overload]
        assert script is not None
        if self._round >= len(script.rounds):
            return not answers
        script.answers.append(answers)
        self._round += 1
        if not script.is_right(answers):
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
        self.home.mkdir(parents=True)
        self.ssh_dir.mkdir()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.accepted_key = self.user_key
        # what bash runs before each command, as in ~/.bashrc
        self.start_up = ""
        # whose user certificates are accepted
        self.ca_key: asyncssh.SSHKey | None = None
        # of sshd's method `password`
        self.password: str | None = None
        self.passwords: list[str] = []
        self.script: PromptScript | None = None
        self.port = 0
        self.login_delay_s = 0.0
        self.denial = ""
        self.sockets: list[str] = []
        self.rekey_bytes = 1 << 30
        self.accepted = self.channels = 0
        self.logins: list[str] = []
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.lost: list[Exception | None] = []
        self.commands: list[str] = []
        self.run: Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]] = self.shell
        self._running: set[asyncio.Task[None]] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self.user_key.write_private_key(str(self.ssh_dir / "id_ed25519"))

    async def start(self) -> None:
        """Listen, on the port of the first start."""
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
        """Stop listening and break every connection."""
        assert self._acceptor is not None
        self._acceptor.close()
        for connection in list(self.connections):
            connection.abort()
            await connection.wait_closed()
        await self._acceptor.wait_closed()
        if self._running:
            await asyncio.wait(self._running, timeout=2)

    def cut(self) -> None:
        """Break every connection; go on listening."""
        for connection in list(self.connections):
            connection.abort()

    def trust(self, key: asyncssh.SSHKey) -> None:
        """Make this the known host key."""
        public = key.export_public_key().decode().strip()
        (self.ssh_dir / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}\n")

    def program(self, name: str, text: str) -> None:
        """Install a program on the login node's PATH."""
        path = self.home / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    async def shell(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Run the line as a login shell would."""
        env = {"HOME": str(self.home), "PATH": f"{self.home}/bin:{os.environ['PATH']}"}
        child = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            self.start_up + (process.command or ""),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=self.home,
            start_new_session=True,
        )
        closed, given = asyncio.ensure_future(process.channel.wait_closed()), b""
        try:
            given = await process.stdin.read()
        finally:
            # a connection that is cut ends the read with an error; the shell ends all the same
            communicate = asyncio.ensure_future(child.communicate(given))
            await asyncio.wait({communicate, closed}, return_when=asyncio.FIRST_COMPLETED)
            closed.cancel()
            if not communicate.done():
                # the children of the shell hold its pipes, so they are killed too
                os.killpg(child.pid, signal.SIGKILL)
            stdout, stderr = await communicate
        with contextlib.suppress(OSError):
            process.stdout.write(stdout)
            process.stderr.write(stderr)
            process.exit(child.returncode or 0)

    async def _process(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.commands.append(process.command or "")
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await self.run(process)


class _Files(asyncssh.SFTPServer):
    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], home: Path) -> None:
        super().__init__(chan)
        self._home = str(home).encode()

    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self._home, path)  # noqa: PTH118 - SFTP paths are bytes
