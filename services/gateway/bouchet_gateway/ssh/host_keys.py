"""Host keys: which are known, which one a server showed, and what a person has to know about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import asyncssh
from bouchet_core.tunnel import HostKey

from .trusted_hosts import OfferedKey, TrustedHosts

DEFAULT_PORT = 22
# host, address, port and key, as asyncssh hands them over
UnknownKeyError = tuple[str, str, int, asyncssh.SSHKey]


def known_hosts(texts: Iterable[str]) -> asyncssh.SSHKnownHosts:
    """All host keys of these files; lines that asyncssh cannot read are passed over, as OpenSSH does."""
    known = asyncssh.import_known_hosts("")
    for text in texts:
        for line in text.splitlines():
            with contextlib.suppress(ValueError, asyncssh.KeyImportError):
                known.load(line)
    return known


def offered_key(unknown: UnknownKeyError | None, known: asyncssh.SSHKnownHosts) -> OfferedKey | None:
    """The key that the server showed; None when it fits no kind of key that is known, or was revoked."""
    if unknown is None:
        return None
    host, addr, port, key = unknown
    shown = HostKey(
        place=host if port == DEFAULT_PORT else f"[{host}]:{port}",
        algorithm=key.get_algorithm(),
        fingerprint=key.get_fingerprint(),
        changed=bool(asyncssh.match_known_hosts(known, host, addr, port if port != DEFAULT_PORT else None)[0]),
    )
    return OfferedKey(shown, key.export_public_key().decode().strip())


def host_key_words(trusted: TrustedHosts, said: str) -> str:
    """What a person has to know about a host key that was refused. said: the reason as asyncssh words it."""
    if trusted.offered is None:
        return f"{said}; the host key changed its kind, was revoked, or its certificate is not valid: ask the site"
    shown = trusted.offered.shown
    key = f"{shown.algorithm} {shown.fingerprint}"
    if not shown.changed:
        return (
            f"the host key of {shown.place} is not known: {key}. Compare it with what the site publishes, "
            "then `bouchet tunnel --trust`"
        )
    mend = (
        f"`bouchet tunnel --forget '{shown.place}'`"
        if trusted.knows(shown.place)
        else f"`ssh-keygen -R '{shown.place}'`, log in once with ssh, and `make up`"
    )
    return (
        f"THE HOST KEY OF {shown.place} HAS CHANGED: it is now {key}. Somebody may be listening in, or the site "
        f"changed it: compare with what the site publishes, then {mend}"
    )
