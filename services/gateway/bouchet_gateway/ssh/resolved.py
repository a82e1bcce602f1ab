"""What ssh on the person's machine resolved for a login node (`make up` writes it), as asyncssh's explicit options.

Where the file is there, no ssh config is read: host, user, port, keys and jump hosts are as `ssh -G` printed them.
"""

from __future__ import annotations

import contextlib
import copy
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh import kex, mac, public_key
from bouchet_core.errors import ConfigurationError
from bouchet_core.values import FrozenModel
from pydantic import Field, ValidationError

from bouchet_gateway.settings import SshSettings

from .config_files import CIPHERS, FIXED_OPTIONS, server_alive_interval
from .host_keys import KnownHosts, parse_known_hosts
from .tcp import TcpConnector

RESOLVED_FILE = "resolved.json"
FORMAT = 1
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
GSSAPI = "gssapi-with-mic"
_METHODS = ("publickey", "keyboard-interactive", "password")


class Identity(FrozenModel):
    """One IdentityFile: its public half and the certificate beside it, each as one line."""

    file: str
    public: str | None = None
    certificate: str | None = None


class ResolvedHop(FrozenModel):
    """One host to log in to. address: where to connect to instead of host and port."""

    alias: str
    host: str
    port: int = Field(ge=1, le=65535)
    user: str
    address: tuple[str, int] | None = None
    host_key_alias: str | None = None
    known_hosts: str = ""
    accepts_new_host_keys: bool = False
    identities: tuple[Identity, ...] = ()
    certificates: tuple[str, ...] = ()
    identities_only: bool = False
    agent: bool = True
    methods: tuple[str, ...] = _METHODS
    gssapi: bool = False
    gssapi_delegates: bool = False
    preferred_methods: tuple[str, ...] = ()
    password_prompts: int = 3
    address_family: str = "any"
    bind_address: str | None = None
    server_alive_interval_s: int = 0
    algorithms: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class ResolvedLogins(FrozenModel):
    """The whole file: the hops to each login node, the login node itself last."""

    format: int = Field(ge=FORMAT, le=FORMAT)
    hosts: dict[str, tuple[ResolvedHop, ...]]


def read_hops(ssh_dir: Path, host: str) -> tuple[ResolvedHop, ...] | None:
    """Return the hops to a login node; None where `make up` found no ssh to ask. Raises ConfigurationError."""
    try:
        logins = ResolvedLogins.model_validate_json((ssh_dir / RESOLVED_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise ConfigurationError("ssh", f"{RESOLVED_FILE} cannot be read; run `make up` again ({exc})") from exc
    if not logins.hosts.get(host):
        raise ConfigurationError("ssh", f"{RESOLVED_FILE} does not have {host}; run `make up` again")
    return logins.hosts[host]


def hop_options(
    settings: SshSettings, hop: ResolvedHop, more_known_hosts: Sequence[str] = ()
) -> tuple[KnownHosts, dict[str, Any]]:
    """Return the known host keys, and the keyword arguments of asyncssh.connect without host, keys and tunnel."""
    accepted = [settings.trusted_hosts.read_text(encoding="utf-8")] if settings.trusted_hosts.is_file() else []
    keys = parse_known_hosts([hop.known_hosts, *accepted, *more_known_hosts])
    known = KnownHosts(keys, hop.host_key_alias, (hop.host, hop.port) if hop.address else None)
    interval_s = server_alive_interval(hop.server_alive_interval_s)
    options: dict[str, Any] = {
        **FIXED_OPTIONS,
        "config": None,
        "username": hop.user,
        "port": hop.address[1] if hop.address else hop.port,
        "host_key_alias": hop.host_key_alias or (hop.host if hop.address else None),
        "known_hosts": known,
        "agent_path": None,
        "encryption_algs": CIPHERS,
        "compression_algs": "none",
        "keepalive_interval": min(interval_s, settings.keepalive_interval_s),
        "keepalive_count_max": settings.keepalive_count,
        "public_key_auth": "publickey" in hop.methods,
        "kbdint_auth": "keyboard-interactive" in hop.methods,
        "password_auth": "password" in hop.methods,
    }
    preferred = [name for name in hop.preferred_methods if name in (*_METHODS, GSSAPI)]
    options |= {"preferred_auth": preferred} if preferred else {}
    return known, options | _algorithm_options(hop)


def direct_connector(hop: ResolvedHop) -> TcpConnector:
    """Return what opens the TCP connection to a hop that nothing is before."""
    family = _FAMILIES.get(hop.address_family, socket.AF_UNSPEC)
    return TcpConnector(family, (hop.bind_address, 0) if hop.bind_address else None)


def _algorithm_options(hop: ResolvedHop) -> dict[str, Any]:
    """Return the person's own lists of algorithms, without those that asyncssh does not have."""
    known = {
        "host_key": ("server_host_key_algs", _names(public_key.get_public_key_algs())),
        "kex": ("kex_algs", _names(kex.get_kex_algs())),
        "mac": ("mac_algs", _names(mac.get_mac_algs())),
    }
    known["host_key"][1].update(_names(public_key.get_certificate_algs()))
    options: dict[str, Any] = {}
    for kind, chosen in hop.algorithms.items():
        option, names = known.get(kind, ("", set()))
        usable = [name for name in chosen if name in names]
        if option and usable:
            options[option] = usable
    return options


def _names(algorithms: Iterable[bytes]) -> set[str]:
    return {name.decode("ascii") for name in algorithms}


@contextlib.asynccontextmanager
async def offered_keys(
    settings: SshSettings, hop: ResolvedHop, private_key: asyncssh.SSHKey | None
) -> AsyncIterator[list[asyncssh.SSHKeyPair]]:
    """Yield the keys to offer, in ssh's order. The agent is open until the block ends, to sign.

    An agent that does not answer holds no keys; the refusal of the login says why.
    """
    if not (hop.agent and settings.agent_socket):
        yield order_keys(hop, [], private_key)
        return
    try:
        agent = await asyncssh.connect_agent(settings.agent_socket)
        held = list(await agent.get_keys())
    except (OSError, ValueError, asyncssh.Error):
        yield order_keys(hop, [], private_key)
        return
    try:
        yield order_keys(hop, held, private_key)
    finally:
        agent.close()


def order_keys(
    hop: ResolvedHop, held: Sequence[asyncssh.SSHKeyPair], private_key: asyncssh.SSHKey | None
) -> list[asyncssh.SSHKeyPair]:
    """Return the keys and certificates to offer, as OpenSSH orders them (sshconnect2.c: pubkey_prepare).

    First what the configuration names and the agent holds, then the agent's other keys unless `IdentitiesOnly`, then
    what only files have. A certificate is signed for by the key that belongs to it, wherever that is.
    """
    in_agent = {pair.public_data: pair for pair in held}
    named = dict.fromkeys(_named_blobs(hop, private_key))
    certificates = {cert.public_data: cert for cert in _certificates(hop)}
    wanted = [blob for blob in named if blob in in_agent]
    if not hop.identities_only:
        wanted += [blob for blob in in_agent if blob not in named]
    wanted += [blob for blob in named if blob not in in_agent]
    signers = {blob: in_agent[blob] for blob in wanted if blob in in_agent}
    keys = [_client_key(blob, signers, certificates.get(blob), private_key) for blob in wanted]
    return [key for key in keys if key is not None]


def _named_blobs(hop: ResolvedHop, private_key: asyncssh.SSHKey | None) -> list[bytes]:
    """Return the public keys and certificates that the configuration names, in its order."""
    blobs: list[bytes] = []
    for identity in hop.identities:
        blobs += [_public_blob(identity.public)] if identity.public else []
        blobs += [cert.public_data for cert in _readable([identity.certificate])]
    blobs += [cert.public_data for cert in _readable(hop.certificates)]
    # a mounted key whose public half was not readable before it was unlocked
    blobs += [private_key.public_data] if private_key is not None else []
    return [blob for blob in blobs if blob]


def _certificates(hop: ResolvedHop) -> list[asyncssh.SSHCertificate]:
    return _readable([*(identity.certificate for identity in hop.identities), *hop.certificates])


def _readable(texts: Iterable[str | None]) -> list[asyncssh.SSHCertificate]:
    """Return the user certificates among these texts; what asyncssh cannot read is passed over, as ssh does."""
    found = []
    for text in texts:
        with contextlib.suppress(ValueError, asyncssh.KeyImportError):
            if text:
                found.append(asyncssh.import_certificate(text))
    return found


def _public_blob(text: str) -> bytes:
    try:
        return asyncssh.import_public_key(text).public_data
    except (ValueError, asyncssh.KeyImportError):
        return b""


def _client_key(
    blob: bytes,
    signers: dict[bytes, asyncssh.SSHKeyPair],
    certificate: asyncssh.SSHCertificate | None,
    private_key: asyncssh.SSHKey | None,
) -> asyncssh.SSHKeyPair | None:
    """Return what signs for a public key or certificate; None where nothing here can."""
    if blob in signers:
        # each login marks its key pairs, so it gets copies
        return copy.copy(signers[blob])
    key = certificate.key.public_data if certificate is not None else blob
    if certificate is not None and key in signers:
        pair = copy.copy(signers[key])
        pair.set_certificate(certificate)
        return pair
    if private_key is not None and private_key.public_data == key:
        # asyncssh returns the key with its certificate first, then the key alone
        return asyncssh.load_keypairs((private_key, certificate) if certificate is not None else private_key)[0]
    return None
