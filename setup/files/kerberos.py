"""A person's Kerberos tickets for the gateway: a copy of the ticket cache, and of what krb5.conf says.

The gateway logs in by GSSAPI where ssh would. Only a cache in a file can be copied: tickets that are in the kernel's
keyring or in a service cannot be read by a container.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from setup.docker.stack import Stack
from setup.progress import Progress

from .container_files import write_private_file
from .env_file import EnvSettings

CACHE_FILE, CONFIG_FILE = "krb5cc", "krb5.conf"
# kinds of caches that are files: of one, and of a folder
FILES = ("", "FILE", "DIR:")
KLIST_TIMEOUT_S = 20
MAX_DEPTH = 4


def stage_tickets(
    stack: Stack, settings: EnvSettings, progress: Progress, document: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Path, ...]:
    """Copy tickets and configuration where ssh would use GSSAPI and there are tickets; return the files written."""
    if not any(hop["gssapi"] for hops in document["hosts"].values() for hop in hops):
        return ()
    name = find_cache(environ)
    kind, _, place = name.rpartition(":")
    if not name:
        return ()
    if kind not in FILES:
        progress.note(
            f"your Kerberos tickets are in {name}, which no container can read: to log in with them run "
            "`kinit -c FILE:$HOME/.krb5cc` and `KRB5CCNAME=FILE:$HOME/.krb5cc make up`"
        )
        return ()
    cache, config = stack.ssh_dir / CACHE_FILE, stack.ssh_dir / CONFIG_FILE
    write_private_file(cache, Path(place).read_bytes(), settings)
    write_private_file(config, "".join(read_config(Path(environ.get("KRB5_CONFIG") or "/etc/krb5.conf"))), settings)
    return cache, config


def find_cache(environ: Mapping[str, str]) -> str:
    """Return the name of the ticket cache in use, such as FILE:/tmp/krb5cc_1000; '' without tickets that are valid."""
    if shutil.which("klist") is None:
        return ""
    asked = {**environ, "LC_ALL": "C"}
    try:
        valid = subprocess.run(["klist", "-s"], env=asked, check=False, timeout=KLIST_TIMEOUT_S)
        shown = subprocess.run(
            ["klist"], env=asked, check=False, capture_output=True, text=True, timeout=KLIST_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return ""
    if valid.returncode:
        return ""
    found = (line.partition(":")[2].strip() for line in shown.stdout.splitlines() if "cache:" in line.lower())
    return next(found, "")


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
