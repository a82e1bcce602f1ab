"""Opens and logs in SSH connections: to the login node, over its jump hosts, and from there to compute nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncssh
from bouchet_core import errors
from bouchet_core.errors import BouchetError

from bouchet_gateway.errors import HostKeyRefusedError, LoginRefusedError, NodeRefusedError, PromptUnansweredError
from bouchet_gateway.settings import SshSettings

from .config_files import connection_options
from .failures import mapped_errors
from .fast_path.switch import enable_fast_path
from .host_keys import KnownHosts, PresentedKey, TrustedHosts, refused_host_key
from .kerberos import ticket_options, ticket_problem
from .login_shell import LoginShell
from .private_key import PrivateKeyFile, agent_problem
from .prompts import PromptBroker, printable
from .resolved import ResolvedHop, direct_connector, hop_options, offered_keys, read_hops
from .tcp import TcpConnector

MAX_BANNER_CHARACTERS = 200
# NumberOfPasswordPrompts of ssh
DEFAULT_PROMPTS = 3


class _LoginClient(asyncssh.SSHClient):
    """asyncssh's callbacks of one login. `lost` is done, with the reason, when the connection has ended.

    host_label: the host as prompts name it; None answers no prompts. on_stage: called as a stage of the login begins.
    accepts: whether a presented host key that nothing is known of is accepted at once. note: shown with its prompts.
    """

    def __init__(
        self,
        broker: PromptBroker,
        host_label: str | None,
        on_stage: Callable[[str], None],
        accepts: Callable[[PresentedKey], bool] = lambda _: False,
        tries: int = DEFAULT_PROMPTS,
        note: str = "",
    ) -> None:
        self._broker, self._host_label, self._on_stage, self._note = broker, host_label, on_stage, note
        self._accepts, self._tries = accepts, {"keyboard-interactive": tries, "password": tries}
        self._user = ""
        self.presented: PresentedKey | None = None
        self.banner = ""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._on_stage("handshake")

    def begin_auth(self, username: str) -> None:
        if self._host_label is not None:
            self._broker.begin_host(self._host_label, self._note)
        self._user = username
        self._on_stage("login")

    def auth_banner_received(self, msg: str, lang: str) -> None:
        self.banner = msg

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(" ".join(str(exc or "connection closed").split()))

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.presented = PresentedKey(host, addr, port, key)
        return self._accepts(self.presented)

    def kbdint_auth_requested(self) -> str | None:
        if not self._may_try("keyboard-interactive"):
            return None
        self._broker.method_started()
        return ""

    async def password_auth_requested(self) -> str | None:
        if self._host_label is None or not self._may_try("password"):
            return None
        self._broker.method_started()
        (password,) = await self._broker.ask("", [(f"{self._user}@{self._host_label}'s password: ", False)])
        return password

    def _may_try(self, method: str) -> bool:
        """Return whether the method may be tried once more, as ssh's NumberOfPasswordPrompts limits it."""
        self._tries[method] -= 1
        return self._tries[method] >= 0

    async def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str]:
        return await self._broker.ask("\n".join(part for part in (name, instructions) if part), prompts)


@dataclass(frozen=True)
class Login:
    """A connection that is logged in. `lost` is done, with the reason, when it no longer is."""

    connection: asyncssh.SSHClientConnection
    lost: asyncio.Future[str]


class Connector:
    """Opens the one connection, over the jump hosts that the ssh config names."""

    def __init__(self, settings: SshSettings, broker: PromptBroker, trusted: TrustedHosts) -> None:
        self._settings, self._broker, self._trusted = settings, broker, trusted
        self._host_number = 0
        self.shell = LoginShell(settings.path, settings.command_prefix)
        self._key_file = PrivateKeyFile(settings.key_file, broker)
        self._private_key: asyncssh.SSHKey | None = None

    @property
    def host(self) -> str:
        """The login node to connect to now."""
        return self._settings.hosts[self._host_number % len(self._settings.hosts)]

    @property
    def via_node(self) -> bool:
        """Whether every forward ends on its compute node, whatever address the vLLM there listens on."""
        return self._settings.via_node

    async def connect(self) -> Login:
        """Open a new connection and log in. Raises TunnelDownError, HumanNeededError or ConfigurationError.

        After a login node that cannot be reached the next one is tried.
        """
        self._private_key = await self._key_file.key()
        self._broker.begin_login()
        self._trusted.refused = None
        try:
            hops = read_hops(self._settings.ssh_dir, self.host)
            if hops is not None:
                return await self._resolved_login(hops)
            return await self._hop(self.host, self._settings.user, self._settings.port, None, (), self.host)
        except errors.TunnelDownError:
            self._host_number += 1
            raise
        except LoginRefusedError as exc:
            problem = await agent_problem(self._settings.agent_socket) or self._ticket_problem()
            raise LoginRefusedError(f"{problem}; {exc}") if problem else exc from exc

    def _ticket_problem(self) -> str:
        hops = read_hops(self._settings.ssh_dir, self.host) or ()
        return next((problem for hop in hops if (problem := ticket_problem(self._settings, hop))), "")

    async def connect_node(
        self, node: str, login_connection: asyncssh.SSHClientConnection, known_hosts: Sequence[str]
    ) -> asyncssh.SSHClientConnection:
        """Open a further connection to a compute node, through one that is up. Keys only; prompts are not answered.

        known_hosts: texts of the login node's known_hosts files, beside the user's own. Raises NodeRefusedError, and
        TunnelDownError when the connection that it goes through broke.
        """
        client = _LoginClient(self._broker, None, lambda _: None)
        with mapped_errors(f"the ssh settings for {node} cannot be used"):
            user = str(login_connection.get_extra_info("username"))
            known, options, hop = self._node_options(node, user, known_hosts)
        options |= {"tunnel": login_connection, "kbdint_auth": False, "password_auth": False}
        try:
            async with self._keys(hop) as keys, asyncio.timeout(self._settings.handshake_timeout_s):
                with mapped_errors(f"cannot log in to {node}"):
                    connection = await asyncssh.connect(node, client_factory=lambda: client, **options, **keys)
        except HostKeyRefusedError as exc:
            self._trusted.refused = refused_host_key(client.presented, known)
            raise NodeRefusedError(self._trusted.explain(str(exc))) from exc
        except (errors.TunnelDownError, errors.HumanNeededError) as exc:
            if login_connection.is_closed():
                raise
            problem = ticket_problem(self._settings, hop) if hop is not None else ""
            reason = f"{problem}; {exc}" if problem else str(exc)
            raise NodeRefusedError(node_refusal_message(reason, client.banner)) from exc
        except TimeoutError as exc:
            limit_s = self._settings.handshake_timeout_s
            raise NodeRefusedError(f"cannot log in to {node}: no answer within {limit_s:g} s") from exc
        self._trusted.refused = None
        self._speed_up(connection)
        return connection

    async def _resolved_login(self, hops: Sequence[ResolvedHop]) -> Login:
        """Log in to each hop through the one before it, with the options that ssh resolved."""
        via: asyncssh.SSHClientConnection | None = None
        for hop in hops:
            host_label = self.host if hop is hops[-1] else f"{hop.alias} (the jump host to {self.host})"
            place = hop.address[0] if hop.address else hop.host
            try:
                with mapped_errors(f"the ssh settings for {hop.alias} cannot be used"):
                    known, options = hop_options(self._settings, hop)
                    options |= ticket_options(self._settings, hop)
                async with self._keys(hop) as keys:
                    options |= {"tunnel": via or direct_connector(hop), **keys}
                    login = await self._login(hop.alias, host_label, options, known, place, hop)
            except BaseException:
                if via is not None:
                    via.abort()
                raise
            login.connection.set_tunnel(via)
            via = login.connection
        return login

    def _node_options(
        self, node: str, user: str, known_hosts: Sequence[str]
    ) -> tuple[KnownHosts, dict[str, Any], ResolvedHop | None]:
        """Return the options for a compute node: those of the login node where ssh resolved them, else the config's."""
        hops = read_hops(self._settings.ssh_dir, self.host)
        if hops is None:
            return (*self._options(node, user, None, known_hosts), None)
        update = {"host": node, "user": user, "port": 22, "address": None, "host_key_alias": None}
        hop = hops[-1].model_copy(update=update)
        known, options = hop_options(self._settings, hop, known_hosts)
        return known, options | ticket_options(self._settings, hop), hop

    @contextlib.asynccontextmanager
    async def _keys(self, hop: ResolvedHop | None) -> AsyncIterator[dict[str, Any]]:
        """Yield the keys to offer as asyncssh's option; none where the ssh config decides."""
        if hop is None:
            yield {}
            return
        async with offered_keys(self._settings, hop, self._private_key) as keys:
            yield {"client_keys": keys or None}

    async def _hop(
        self,
        alias: str,
        user: str | None,
        port: int | None,
        via: asyncssh.SSHClientConnection | None,
        seen: tuple[str, ...],
        host_label: str,
    ) -> Login:
        """Log in to a host after its jump hosts. seen: aliases whose jump hosts are being connected."""
        with mapped_errors(f"the ssh settings for {alias} cannot be used"):
            known, options = self._options(alias, user, port)
        if via is None and isinstance(options["tunnel"], str) and alias not in seen:
            for jump in options["tunnel"].split(","):
                jump_user, _, place = jump.rpartition("@")
                host, _, number = place.partition(":")
                seen = (*seen, alias)
                label = f"{host} (the jump host to {self.host})"
                via = (await self._hop(host, jump_user or None, int(number or 0) or None, via, seen, label)).connection
        try:
            through = via or (options["tunnel"] if isinstance(options["tunnel"], TcpConnector) else None)
            login = await self._login(alias, host_label, {**options, "tunnel": through}, known)
        except BaseException:
            if via is not None:
                via.abort()
            raise
        login.connection.set_tunnel(via)
        return login

    def _options(
        self, alias: str, user: str | None, port: int | None, more_known_hosts: Sequence[str] = ()
    ) -> tuple[KnownHosts, dict[str, Any]]:
        return connection_options(
            self._settings, alias, user, port, private_key=self._private_key, more_known_hosts=more_known_hosts
        )

    async def _login(
        self,
        alias: str,
        host_label: str,
        options: dict[str, Any],
        known: KnownHosts,
        place: str = "",
        hop: ResolvedHop | None = None,
    ) -> Login:
        """Log in to one host. place: the host to connect to where that is not the alias."""
        s, loop = self._settings, asyncio.get_running_loop()
        limits = {"connect": s.connect_timeout_s, "handshake": s.handshake_timeout_s, "login": s.login_timeout_s}
        stage = "connect"
        clients: list[_LoginClient] = []

        def on_stage(reached: str) -> None:
            nonlocal stage
            stage = reached
            if not timer.expired():
                timer.reschedule(loop.time() + limits[reached])

        def client() -> asyncssh.SSHClient:
            tries = hop.password_prompts if hop is not None else DEFAULT_PROMPTS
            note = ticket_problem(s, hop) if hop is not None else ""
            clients.append(_LoginClient(self._broker, host_label, on_stage, accepts, tries, note))
            return clients[-1]

        def accepts(presented: PresentedKey) -> bool:
            new = refused_host_key(presented, known) if hop is not None and hop.accepts_new_host_keys else None
            return new is not None and not new.shown.changed and self._trusted.accept(new)

        timer = asyncio.timeout(limits[stage])
        try:
            async with timer:
                with self._login_errors(alias, host_label, clients, known):
                    connection = await asyncssh.connect(place or alias, client_factory=client, **options)
        except TimeoutError as exc:
            raise self._timeout_error(host_label, stage, limits[stage]) from exc
        self._speed_up(connection)
        return Login(connection, clients[-1].lost)

    def _speed_up(self, connection: asyncssh.SSHClientConnection) -> None:
        if self._settings.fast_path:
            enable_fast_path(connection)

    def _timeout_error(self, host_label: str, stage: str, limit_s: float) -> BouchetError:
        message = f"{host_label} did not answer within {limit_s:.0f} s (stage: {stage})"
        return LoginRefusedError(message) if self._broker.asked else errors.TunnelDownError(message)

    @contextlib.contextmanager
    def _login_errors(
        self, alias: str, host_label: str, clients: list[_LoginClient], known: KnownHosts
    ) -> Iterator[None]:
        """Map login failures to retryable, human-needed or configuration errors."""
        try:
            with mapped_errors(f"cannot log in to {host_label}"):
                yield
        except HostKeyRefusedError as exc:
            self._trusted.refused = refused_host_key(clients[-1].presented, known)
            raise HostKeyRefusedError(self._trusted.explain(str(exc))) from exc
        except LoginRefusedError as exc:
            raise LoginRefusedError(f"{exc}; try `ssh {alias}` in a terminal, then `bouchet tunnel`") from exc
        except errors.TunnelDownError as exc:
            # the server hung up while a prompt was open: a new login without a person would ring a phone in vain
            if self._broker.asked:
                raise PromptUnansweredError(
                    f"{exc}, while a login prompt was open; run `bouchet tunnel` for a new one"
                ) from exc
            raise


def node_refusal_message(reason: str, banner: str) -> str:
    """Return why a compute node refused the login. banner: what its sshd sent first; PAM's reason is its last line."""
    lines = [line for line in printable(banner).splitlines() if line.strip()]
    banner_line = f"; the node's message: {lines[-1].strip()[:MAX_BANNER_CHARACTERS]}" if lines else ""
    hint = "a compute node accepts only users with a running job on it, by key or ticket, without prompts (`via: node`)"
    return f"{reason}{banner_line}; {hint}"
