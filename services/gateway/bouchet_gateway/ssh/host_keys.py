"""Host keys: which are known, which one a server presented, and the ones accepted with `bouchet tunnel --trust`.

~/.ssh is mounted read-only, so accepted keys are kept in a known_hosts file of the gateway's own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from bouchet_core.errors import HostKeyNotTrustedError
from bouchet_core.tunnel import HostKey

DEFAULT_PORT = 22


@dataclass(frozen=True)
class PresentedKey:
    """A host key that asyncssh could not verify, with the fields that it passes on."""

    host: str
    address: str
    port: int
    key: asyncssh.SSHKey


@dataclass(frozen=True)
class RefusedHostKey:
    """A host key that was refused, and may be accepted by a person."""

    shown: HostKey
    # the key as known_hosts writes it
    line: str


def parse_known_hosts(texts: Iterable[str]) -> asyncssh.SSHKnownHosts:
    """Return all host keys of these files. Lines that asyncssh cannot read are skipped, as OpenSSH does.

    A line ends where it ends for OpenSSH, and has no comment for asyncssh, which would take other characters in it,
    such as a form feed, for the end of a line: what is behind it would be a host key.
    """
    known = asyncssh.import_known_hosts("")
    for text in texts:
        for line in text.split("\n"):
            fields = line.strip(" \t\r").replace("\t", " ").split(" ")
            named = [field for field in fields if field]
            names_at = 1 if line.lstrip(" \t").startswith("@") else 0
            if len(named) > names_at:
                named[names_at] = _names_of(named[names_at])
            entry = " ".join(named[: names_at + 3])
            if len(entry.splitlines()) == 1:
                with contextlib.suppress(ValueError, asyncssh.KeyImportError):
                    known.load(entry)
    return known


def _names_of(field: str) -> str:
    """Return the names of a line as OpenSSH compares them: in small letters, and without networks, which it has not."""
    if field.startswith("|"):
        return field
    return ",".join(name for name in field.lower().split(",") if "/" not in name)


# host keys, keys of authorities, revoked keys
MatchingKeys = tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]]


@dataclass(frozen=True)
class KnownHosts:
    """Host keys by the names under which OpenSSH looks a host up (sshconnect.c: get_hostfile_hostname_ipaddr).

    An address never makes a key known, and HostKeyAlias is in place of host and port. asyncssh calls it as a function.
    alias: HostKeyAlias; place: host and port of the configuration, where the connection is made to another address.
    """

    keys: asyncssh.SSHKnownHosts
    alias: str | None = None
    place: tuple[str, int] | None = None

    def names(self, host: str, port: int | None) -> tuple[str, ...]:
        """Return the names in the order of looking; the first one is what known_hosts gets for a new key."""
        if self.alias:
            return (self.alias.lower(),)
        host, port = self.place or (host, port or DEFAULT_PORT)
        return (host.lower(),) if port == DEFAULT_PORT else (f"[{host.lower()}]:{port}", host.lower())

    def __call__(self, host: str, addr: str, port: int | None) -> MatchingKeys:
        """Return the keys of the first name that has some; what is revoked under a name before it is revoked."""
        keys: Sequence[asyncssh.SSHKey] = ()
        authorities: Sequence[asyncssh.SSHKey] = ()
        revoked: list[asyncssh.SSHKey] = []
        for name in self.names(host, port):
            found = self.keys.match(name, "", None)
            if not keys:
                keys = found[0]
                revoked += found[2]
            authorities = authorities or found[1]
        return keys, authorities, revoked


def refused_host_key(presented: PresentedKey | None, known: KnownHosts) -> RefusedHostKey | None:
    """Return the key to show to a person; None when the server has no key of a known type, or a revoked one."""
    if presented is None:
        return None
    host, port, key = presented.host, presented.port, presented.key
    matches = known(host, presented.address, port)
    shown = HostKey(
        place=known.names(host, port)[0],
        algorithm=key.get_algorithm(),
        fingerprint=key.get_fingerprint(),
        changed=bool(matches[0]),
    )
    return RefusedHostKey(shown, key.export_public_key().decode().strip())


class TrustedHosts:
    """The known_hosts file of accepted keys, and the refused key that waits for a decision."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: RefusedHostKey | None = None

    def trust(self, fingerprint: str) -> None:
        """Accept the refused key, if its fingerprint is the given one. Raises HostKeyNotTrustedError otherwise."""
        refused = self.refused
        if refused is None:
            raise HostKeyNotTrustedError(
                "there is no unknown host key to accept; `bouchet tunnel` shows the state of the connection"
            )
        if refused.shown.changed:
            raise HostKeyNotTrustedError(
                f"the host key of {refused.shown.place} HAS CHANGED and cannot be accepted here: ask the site first"
            )
        if fingerprint.strip() != refused.shown.fingerprint:
            raise HostKeyNotTrustedError(
                f"the fingerprint does not match: the server's host key is {refused.shown.fingerprint}"
            )
        self.accept(refused)
        self.refused = None

    def accept(self, presented: RefusedHostKey) -> bool:
        """Keep a host key; return True."""
        self._write([*self._lines(), f"{presented.shown.place} {presented.line}"])
        return True

    def forget(self, place: str) -> None:
        """Remove the accepted keys of a host. Raises HostKeyNotTrustedError when there are none."""
        lines = self._lines()
        kept = [line for line in lines if line.split(" ", 1)[0] != place]
        if len(kept) == len(lines):
            raise HostKeyNotTrustedError(
                f"no accepted host key of {place!r}; for keys in ~/.ssh/known_hosts use `ssh-keygen -R`"
            )
        self._write(kept)

    def has_accepted(self, place: str) -> bool:
        """Return whether a key of that host was accepted."""
        return any(line.split(" ", 1)[0] == place for line in self._lines())

    def explain(self, reason: str) -> str:
        """Return the message about the refused host key, with what to do. reason: asyncssh's."""
        if self.refused is None:
            return (
                f"{reason}; the host key has another type than the known one, was revoked, "
                "or has an invalid certificate: ask the site"
            )
        shown = self.refused.shown
        key = f"{shown.algorithm} {shown.fingerprint}"
        if not shown.changed:
            return (
                f"the host key of {shown.place} is not known: {key}. Compare it with the fingerprint that the site "
                "publishes, then run `bouchet tunnel --trust`"
            )
        fix = (
            f"`bouchet tunnel --forget '{shown.place}'`"
            if self.has_accepted(shown.place)
            else f"`ssh-keygen -R '{shown.place}'`, log in once with ssh, and run `make up`"
        )
        return (
            f"THE HOST KEY OF {shown.place} HAS CHANGED: it is now {key}. Either the site replaced it, or the "
            f"connection is intercepted: compare it with the fingerprint that the site publishes, then {fix}"
        )

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []

    def _write(self, lines: list[str]) -> None:
        part = self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as exc:
            raise HostKeyNotTrustedError(f"cannot save the accepted host key: {exc.strerror} ({self.path})") from exc
