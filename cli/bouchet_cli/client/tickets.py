"""Kerberos tickets that were renewed since `make up` copied them for the gateway: they are copied again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from .settings import PROJECT

# as setup/files/kerberos.py writes them
TICKETS_FILE, CACHE_FILE = "tickets.json", "krb5cc"
# the first byte of a ticket cache, whatever its version
CACHE_START = b"\x05"
FILE_KIND = "FILE:"


def renew_tickets(environment: Mapping[str, str], project: Path = PROJECT) -> bool:
    """Copy the ticket cache if it is newer than the copy; True if it was.

    Nothing is done where `make up` found no tickets, or mounted their folder. A cache of another terminal
    (KRB5CCNAME) counts as well as the one that `make up` found.
    """
    name = environment.get("COMPOSE_PROJECT_NAME") or "bouchet"
    folder = project / (".secrets" if name == "bouchet" else f".secrets-{name}") / "ssh"
    if not (folder / TICKETS_FILE).is_file():
        return False
    try:
        written = json.loads((folder / TICKETS_FILE).read_bytes())
        if written["mounted"]:
            return False
        return _copy_newest(_caches(environment, str(written["source"])), folder / CACHE_FILE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _caches(environment: Mapping[str, str], source: str) -> list[Path]:
    named = environment.get("KRB5CCNAME", "").removeprefix(FILE_KIND)
    names = [source, *([named] if named.startswith("/") else [])]
    return [path for path in map(Path, names) if path.is_file()]


def _copy_newest(caches: list[Path], copy: Path) -> bool:
    """Copy the cache that was written last, with its folder's owner, unless the copy is as new."""
    newest = max(caches, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        return False
    data, time_ns = newest.read_bytes(), newest.stat().st_mtime_ns
    as_new = copy.is_file() and (copy.stat().st_mtime_ns >= time_ns or copy.read_bytes() == data)
    if as_new or not data.startswith(CACHE_START):
        return False
    scratch = copy.with_name(f".{copy.name}.{os.getpid()}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    owner = copy.parent.stat()
    if os.getuid() == 0:
        os.chown(scratch, owner.st_uid, owner.st_gid)
    scratch.replace(copy)
    return True
