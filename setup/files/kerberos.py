"""A person's Kerberos tickets for the gateway: where their cache is, a copy of it, and of what krb5.conf says.

The gateway logs in by GSSAPI where ssh would. Only a cache in a file can be used: tickets that are in the kernel's
keyring or in a service cannot be read by a container. kinit replaces the file, so a mount of the file alone would
keep the old tickets; a folder that holds tickets alone is mounted, and of others the cache is copied: here, and by
the commands of `bouchet` where the cache has changed since.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from setup.docker.stack import Stack
from setup.progress import Progress

from .container_files import write_private_file
from .env_file import EnvSettings

CACHE_FILE, CONFIG_FILE = "krb5cc", "krb5.conf"
# where the cache is; the gateway and the commands of `bouchet` read it
TICKETS_FILE = "tickets.json"
# kinds of caches that are files: of one, and of a folder
FILES = ("", "FILE", "DIR:")
KLIST_TIMEOUT_S = 20
MAX_DEPTH = 4
MAX_TICKET_FILES = 64
# the first byte of a ticket cache, whatever its version
CACHE_START = b"\x05"
# of a folder of caches: which of them is in use
PRIMARY = "primary"


def stage_tickets(
    stack: Stack, settings: EnvSettings, progress: Progress, document: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Path, ...]:
    """Write where ssh would find tickets, and copy them, if it would use GSSAPI; return the files written."""
    if not any(hop["gssapi"] for hops in document["hosts"].values() for hop in hops):
        return ()
    name = find_cache(environ)
    kind, _, place = name.rpartition(":")
    if kind not in FILES:
        progress.note(
            f"your Kerberos tickets are in {name}, which no container can read: to log in with them run "
            "`mkdir -p -m 700 ~/.tickets`, `export KRB5CCNAME=FILE:$HOME/.tickets/cc`, `kinit` and `make up`"
        )
        return ()
    record, cache = stack.ssh_dir / TICKETS_FILE, Path(place)
    # Debian's ssh asks for GSSAPI on every machine: without tickets only who named a cache, or had one, wants to use it
    if not (place and (cache.is_file() or environ.get("KRB5CCNAME") or record.is_file())):
        return ()
    mounted = holds_only_tickets(cache.parent, settings.uid)
    written = {"source": str(cache), "mounted": mounted}
    write_private_file(record, json.dumps(written, sort_keys=True) + "\n", settings)
    config = stack.ssh_dir / CONFIG_FILE
    write_private_file(config, "".join(read_config(Path(environ.get("KRB5_CONFIG") or "/etc/krb5.conf"))), settings)
    if mounted or not cache.is_file():
        return record, config
    write_private_file(stack.ssh_dir / CACHE_FILE, cache.read_bytes(), settings)
    progress.note(
        f"Kerberos tickets: the gateway has a copy of {cache}, which `bouchet tunnel` renews after `kinit`; of a "
        "folder with nothing but tickets (KRB5CCNAME=FILE:$HOME/.tickets/cc) it reads them itself"
    )
    return record, config, stack.ssh_dir / CACHE_FILE


def ticket_variables(stack: Stack) -> dict[str, str]:
    """Return the variable of compose.cluster.yaml for a folder of tickets to mount; none without one."""
    try:
        written = json.loads((stack.ssh_dir / TICKETS_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return {"BOUCHET_TICKETS_DIR": str(Path(written["source"]).parent)} if written["mounted"] else {}


def find_cache(environ: Mapping[str, str]) -> str:
    """Return the name of the ticket cache in use, such as FILE:/tmp/krb5cc_1000, whether there are tickets or not.

    '' where the machine has no Kerberos, or tickets that are no files are not valid.
    """
    if shutil.which("klist") is None:
        return ""
    asked = {**environ, "LC_ALL": "C"}
    try:
        shown = subprocess.run(
            ["klist"], env=asked, check=False, capture_output=True, text=True, timeout=KLIST_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return ""
    return parse_klist(shown.stdout, shown.stderr)


def parse_klist(shown: str, problem: str) -> str:
    """Return the name of the cache from what `klist` prints, with tickets or without."""
    found = (line.partition(":")[2].strip() for line in shown.splitlines() if "cache:" in line.lower())
    named = next(found, "")
    if named:
        return named
    # "klist: No credentials cache found (filename: /tmp/krb5cc_1000)"
    _, _, rest = problem.partition("(filename: ")
    return rest.rpartition(")")[0].strip()


def holds_only_tickets(folder: Path, uid: int) -> bool:
    """Tell whether a folder is the containers' user's alone, and has nothing but ticket caches: it may be mounted."""
    try:
        found = folder.stat()
        if found.st_uid != uid or found.st_mode & 0o077 or folder == Path.home():
            return False
        entries = list(itertools.islice(folder.iterdir(), MAX_TICKET_FILES + 1))
        return len(entries) <= MAX_TICKET_FILES and all(map(_is_of_tickets, entries))
    except OSError:
        return False


def _is_of_tickets(path: Path) -> bool:
    """Tell whether a file is a ticket cache, or says which one is in use."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    with path.open("rb") as file:
        return path.name == PRIMARY or file.read(1) in (CACHE_START, b"")


def read_config(path: Path, depth: int = 0) -> Iterator[str]:
    """Yield the lines of krb5.conf, with those of the files that it includes in their place (krb5.conf(5))."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        word, _, value = line.strip().partition(" ")
        place = Path(value.strip())
        if word == "include" and depth < MAX_DEPTH:
            yield from read_config(place, depth + 1)
        elif word == "includedir" and depth < MAX_DEPTH:
            for one in sorted(place.iterdir()) if os.access(place, os.R_OK | os.X_OK) and place.is_dir() else ():
                if _is_included(one.name):
                    yield from read_config(one, depth + 1)
        else:
            yield f"{line}\n"


def _is_included(name: str) -> bool:
    """Tell whether libkrb5 reads a file of an `includedir`."""
    plain = name.replace("-", "").replace("_", "")
    return (plain.isascii() and plain.isalnum()) or (name.endswith(".conf") and not name.startswith("."))
