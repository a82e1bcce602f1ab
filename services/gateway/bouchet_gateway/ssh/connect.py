"""SSH itself: options, login, host keys, errors, quoting. Only this file and session.py know asyncssh.

Every foreign exception becomes one of bouchet_core.errors here (see `mapped_error`), and argv the one string that
SSH insists on (see `quoted`).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import asyncssh
from bouchet_core import errors
from bouchet_core.errors import BouchetError

from bouchet_gateway.errors import HostKeyRefusedError, LoginRefusedError, NodeRefusedError, PromptUnansweredError
from bouchet_gateway.settings import SshSettings

from . import config_files as sshdir
from .fast_path.packets import Thrift
from .host_keys import UnknownKeyError, host_key_words, known_hosts, offered_key
from .private_key import KeyFile, agent_words
from .prompts import PromptBroker, printable
from .tcp import Reach
from .trusted_hosts import TrustedHosts

# measured: chacha20, asyncssh's first choice, costs 1.7 times the CPU
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
    "chacha20-poly1305@openssh.com",
)
BANNER_CHARACTERS = 200
_HOME_OPTION = re.compile(r"^(--[a-z-]+=)?~/")


def quoted(argv: Sequence[str]) -> str:
    """One line for the remote login shell that gives the program exactly these words.

    `~/x` and `--option=~/x` mean the remote home; everything else is literal.
    """
    return " ".join(_quoted_word(word) for word in argv)


def _quoted_word(word: str) -> str:
    home = _HOME_OPTION.match(word)
    if not home:
        return shlex.quote(word)
    rest = word[home.end() :]
    return f'{home.group(1) or ""}"$HOME"/{shlex.quote(rest) if rest else ""}'


def mapped_error(exc: Exception, doing: str) -> BouchetError:
    """The error of our own that a foreign exception stands for. doing: what was being done, in words."""
    said = " ".join(str(exc).split()) or type(exc).__name__
    words = f"{doing}: {said}"
    for foreign, ours in _OURS:
        if isinstance(exc, foreign):
            return ours(words)
    return errors.TunnelDownError(words)


def _unusable(words: str) -> BouchetError:
    return errors.ConfigurationError("ssh", words)


# first match wins, so the narrow ones come first
_OURS: tuple[tuple[type[Exception], Callable[[str], BouchetError]], ...] = (
    (asyncssh.SFTPNoSuchFile, errors.RemoteFileMissingError),
    (asyncssh.SFTPNoSuchPath, errors.RemoteFileMissingError),
    (asyncssh.SFTPConnectionLost, errors.TunnelDownError),
    (asyncssh.SFTPNoConnection, errors.TunnelDownError),
    (asyncssh.SFTPError, errors.RemoteFileError),
    (asyncssh.ChannelOpenError, errors.RemoteFileError),
    (asyncssh.ChannelListenError, errors.RemoteFileError),
    (asyncssh.HostKeyNotVerifiable, HostKeyRefusedError),
    (asyncssh.PermissionDenied, LoginRefusedError),
    (asyncssh.IllegalUserName, LoginRefusedError),
    (asyncssh.PasswordChangeRequired, LoginRefusedError),
    (asyncssh.ConfigParseError, _unusable),
    (asyncssh.KeyImportError, _unusable),
    (asyncssh.KeyExportError, _unusable),
    (asyncssh.KeyGenerationError, _unusable),
    (asyncssh.KeyEncryptionError, _unusable),
    (asyncssh.ProcessError, errors.RemoteTimeoutError),
)


# not all of asyncssh's exceptions share a base
_FOREIGN = (
    asyncssh.Error,
    asyncssh.ChannelListenError,
    asyncssh.PasswordChangeRequired,
    asyncssh.BreakReceived,
    asyncssh.SignalReceived,
    asyncssh.TerminalSizeChanged,
    OSError,
    ValueError,
)


@contextlib.contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Foreign exceptions of the block leave it as our own."""
    try:
        yield
    except BouchetError:
        raise
    except asyncssh.KeyExchangeFailed as exc:
        if "host key" in str(exc):
            raise HostKeyRefusedError(f"{doing}: {exc}") from exc
        raise mapped_error(exc, doing) from exc
    except asyncssh.DisconnectError as exc:
        # OpenSSH ends the login this way, with a plain protocol error code
        if "too many authentication failures" in str(exc).lower():
            raise LoginRefusedError(f"{doing}: {exc}; the agent offers too many keys, set IdentitiesOnly") from exc
        raise mapped_error(exc, doing) from exc
    except _FOREIGN as exc:
        raise mapped_error(exc, doing) from exc


class _Client(asyncssh.SSHClient):
    """What asyncssh asks and tells during one login. `lost` is done when the connection has ended.

    who: the host, in words for people; None asks nobody anything. banner: what it says before it lets anybody in.
    """

    def __init__(self, broker: PromptBroker, who: str | None, extend: Callable[[str], None]) -> None:
        self._broker, self._who, self._extend = broker, who, extend
        self.unknown_key: UnknownKeyError | None = None
        self.banner = ""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._extend("handshake")

    def begin_auth(self, username: str) -> None:
        if self._who is not None:
            self._broker.begin_with(self._who)
        self._extend("login")

    def auth_banner_received(self, msg: str, lang: str) -> None:
        self.banner = msg

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(" ".join(str(exc or "connection closed").split()))

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.unknown_key = (host, addr, port, key)
        return False

    def kbdint_auth_requested(self) -> str:
        self._broker.method_started()
        return ""

    async def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str]:
        return await self._broker.ask("\n".join(part for part in (name, instructions) if part), prompts)


@dataclass(frozen=True)
class Login:
    """A connection that is logged in. `lost` is done, with the reason, when it no longer is."""

    connection: asyncssh.SSHClientConnection
    lost: asyncio.Future[str]
    thrift: Thrift


class Connector:
    """Opens the one connection, over the jump hosts that the ssh config names."""

    def __init__(self, settings: SshSettings, broker: PromptBroker, trusted: TrustedHosts) -> None:
        self._settings, self._broker, self._trusted = settings, broker, trusted
        self._turn = 0
        self._key_file = KeyFile(settings.key_file, broker)
        self._own_key: asyncssh.SSHKey | None = None

    @property
    def host(self) -> str:
        """The login node whose turn it is."""
        return self._settings.hosts[self._turn % len(self._settings.hosts)]

    @property
    def via_node(self) -> bool:
        """Whether every forward ends on its compute node, wherever the vLLM there listens."""
        return self._settings.via_node

    async def connect(self) -> Login:
        """A new connection, logged in. Raises TunnelDownError, HumanNeededError or ConfigurationError.

        A login node that cannot be reached leaves its turn to the next one.
        """
        self._own_key = await self._key_file.key()
        self._broker.begin()
        self._trusted.offered = None
        try:
            return await self._hop(self.host, self._settings.user, self._settings.port, None, (), self.host)
        except errors.TunnelDownError:
            self._turn += 1
            raise
        except LoginRefusedError as exc:
            words = await agent_words(self._settings.agent_socket)
            raise LoginRefusedError(f"{words}; {exc}") if words else exc from exc

    async def to_node(
        self, node: str, gate: asyncssh.SSHClientConnection, hosts: Sequence[str]
    ) -> asyncssh.SSHClientConnection:
        """A further connection, through one that is up. It asks nobody: keys only.

        hosts: known_hosts files of the login node, beside the person's own. Raises NodeRefusedError with what to do, and
        TunnelDownError when the connection that is up broke meanwhile.
        """
        client = _Client(self._broker, None, lambda _: None)
        with mapped(f"the ssh settings for {node} cannot be used"):
            known, options = self._options(node, str(gate.get_extra_info("username")), None, hosts)
        unasked = {**options, "tunnel": gate, "kbdint_auth": False}
        try:
            async with asyncio.timeout(self._settings.handshake_timeout_s):
                with mapped(f"cannot log in to {node}"):
                    connection = await asyncssh.connect(node, client_factory=lambda: client, **unasked)
                    self._trusted.offered = None
                    return connection
        except HostKeyRefusedError as exc:
            self._trusted.offered = offered_key(client.unknown_key, known)
            raise NodeRefusedError(host_key_words(self._trusted, str(exc))) from exc
        except (errors.TunnelDownError, errors.HumanNeededError) as exc:
            if gate.is_closed():
                raise
            raise NodeRefusedError(node_words(str(exc), client.banner)) from exc
        except TimeoutError as exc:
            raise NodeRefusedError(f"ssh to {node} did not answer in time") from exc

    async def _hop(
        self,
        alias: str,
        user: str | None,
        port: int | None,
        via: asyncssh.SSHClientConnection | None,
        seen: tuple[str, ...],
        who: str,
    ) -> Login:
        """who: the host in words. seen: aliases whose jump hosts are being gone through."""
        with mapped(f"the ssh settings for {alias} cannot be used"):
            known, options = self._options(alias, user, port)
        if via is None and isinstance(options["tunnel"], str) and alias not in seen:
            for jump in options["tunnel"].split(","):
                jump_user, _, place = jump.rpartition("@")
                host, _, number = place.partition(":")
                seen = (*seen, alias)
                jump = f"{host} (the jump host to {self.host})"
                via = (await self._hop(host, jump_user or None, int(number or 0) or None, via, seen, jump)).connection
        try:
            through = via or (options["tunnel"] if isinstance(options["tunnel"], Reach) else None)
            login = await self._login(alias, who, {**options, "tunnel": through}, known)
        except BaseException:
            if via is not None:
                via.abort()
            raise
        login.connection.set_tunnel(via)
        return login

    def _options(
        self, alias: str, user: str | None, port: int | None, hosts: Sequence[str] = ()
    ) -> tuple[asyncssh.SSHKnownHosts, dict[str, Any]]:
        """Known host keys, and the keyword arguments of asyncssh.connect for this host alias."""
        s = self._settings
        files = sshdir.config_files(s.ssh_dir)
        config = asyncssh.SSHClientConnectionOptions(config=files, host=alias, client_keys=None, known_hosts=None)
        read = config.config.get
        identities = cast("list[str]", read("IdentityFile") or [])
        files_of_hosts = sshdir.known_hosts_files(cast("list[str]", read("UserKnownHostsFile") or []), s.ssh_dir)
        known = known_hosts([*_texts([*files_of_hosts, s.trusted_hosts]), *hosts])
        only = sshdir.identity_files(identities, s.ssh_dir) if read("IdentitiesOnly") else []
        options: dict[str, Any] = {
            "config": files,
            "tunnel": config.tunnel or (None if config.proxy_command else Reach(config.family, config.local_addr)),
            "known_hosts": known,
            "client_keys": [*sshdir.key_files(identities, s.ssh_dir), *([self._own_key] if self._own_key else [])],
            "ignore_encrypted": True,
            "agent_path": s.agent_socket or read("IdentityAgent"),
            "agent_identities": only or None,
            "encryption_algs": CIPHERS,
            "compression_algs": "none",
            # the quicker of ours and the person's: minutes are fine for a terminal, not for waiting requests
            "keepalive_interval": min(cast("int | None", read("ServerAliveInterval")) or 60, s.keepalive_interval_s),
            "keepalive_count_max": s.keepalive_count,
            "password_auth": False,
            "gss_host": None,
            # both are kept by `_login`, which lets a person take the time to answer
            "connect_timeout": None,
            "login_timeout": 0,
            # what an ssh config may ask for a terminal session would break commands and files
            "command": None,
            "request_pty": False,
            "x11_forwarding": False,
            "agent_forwarding": False,
        }
        options |= {"username": user} if user and not read("User") else {}
        options |= {"port": port} if port and not read("Port") else {}
        return known, options

    async def _login(self, alias: str, who: str, options: dict[str, Any], known: asyncssh.SSHKnownHosts) -> Login:
        s, loop = self._settings, asyncio.get_running_loop()
        limits = {"connect": s.connect_timeout_s, "handshake": s.handshake_timeout_s, "login": s.login_timeout_s}
        stage = "connect"
        clients: list[_Client] = []

        def extend(reached: str) -> None:
            nonlocal stage
            stage = reached
            if not timer.expired():
                timer.reschedule(loop.time() + limits[reached])

        def client() -> asyncssh.SSHClient:
            clients.append(_Client(self._broker, who, extend))
            return clients[-1]

        timer = asyncio.timeout(limits[stage])
        try:
            async with timer:
                with _told_apart(alias, who, self._broker, clients, known, self._trusted):
                    conn = await asyncssh.connect(alias, client_factory=client, **options)
        except TimeoutError as exc:
            raise self._too_slow(who, stage, limits[stage]) from exc
        return Login(conn, clients[-1].lost, Thrift(conn))

    def _too_slow(self, who: str, stage: str, limit_s: float) -> BouchetError:
        words = f"{who} did not answer within {limit_s:.0f} s ({stage})"
        return LoginRefusedError(words) if self._broker.asked else errors.TunnelDownError(words)


@contextlib.contextmanager
def _told_apart(
    alias: str,
    who: str,
    broker: PromptBroker,
    clients: list[_Client],
    known: asyncssh.SSHKnownHosts,
    trusted: TrustedHosts,
) -> Iterator[None]:
    """What went wrong in a login, as the error that says who can mend it: time, a person, or a file."""
    try:
        with mapped(f"cannot log in to {who}"):
            yield
    except HostKeyRefusedError as exc:
        trusted.offered = offered_key(clients[-1].unknown_key, known)
        raise HostKeyRefusedError(host_key_words(trusted, str(exc))) from exc
    except LoginRefusedError as exc:
        raise LoginRefusedError(f"{exc}; check `ssh {alias}` in a terminal, then `bouchet tunnel`") from exc
    except errors.TunnelDownError as exc:
        # the server hung up on a question: asking again unasked would ring a phone for nothing
        if broker.asked:
            raise PromptUnansweredError(f"{exc}, while a login prompt was open; `bouchet tunnel` asks again") from exc
        raise


def node_words(said: str, banner: str) -> str:
    """Why a compute node let us not in. banner: PAM's word on it is the last line of what sshd said first."""
    lines = [line for line in printable(banner).splitlines() if line.strip()]
    word = f"; it says: {lines[-1].strip()[:BANNER_CHARACTERS]}" if lines else ""
    hint = "nodes let in those who have a job there, with a key and without a question (`via: node` in the site file)"
    return f"{said}{word}; {hint}"


def _texts(paths: Iterable[Path]) -> list[str]:
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()]
