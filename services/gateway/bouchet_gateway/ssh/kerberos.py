"""Logins with a Kerberos ticket (GSSAPI), where ssh on the person's machine would use one.

`make up` writes where the ticket cache is. A folder of tickets is mounted, so that tickets which were renewed or
replaced are used at the next login; of other caches there is a copy beside what ssh resolved, which the commands of
`bouchet` renew. Debian's python3-gssapi in the image is what asyncssh asks for tickets; without the package, or
without a cache, the other methods of the login remain.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from asyncssh import gss

from bouchet_gateway.settings import SshSettings

from .resolved import ResolvedHop

CACHE_FILE, TICKETS_FILE = "krb5cc", "tickets.json"
MEND = "run `kinit`, then `bouchet tunnel --connect`"


def ticket_options(settings: SshSettings, hop: ResolvedHop) -> dict[str, Any]:
    """Return asyncssh's options to log in with a ticket for the host; none where ssh would not, or there are none."""
    cache = find_cache(settings)
    if not (hop.gssapi and gss.gss_available and cache is not None and cache.is_file()):
        return {}
    return {
        "gss_host": hop.host,
        # as OpenSSH has it: the host is known by its key, not by Kerberos
        "gss_kex": False,
        "gss_auth": True,
        "gss_delegate_creds": hop.gssapi_delegates,
        "gss_store": {"ccache": f"FILE:{cache}"},
    }


def ticket_problem(settings: SshSettings, hop: ResolvedHop) -> str:
    """Return what is wrong with the ticket for a host; '' where none is needed, or one is valid."""
    cache = find_cache(settings)
    if cache is None or not (hop.gssapi and gss.gss_available):
        return ""
    if not cache.is_file():
        return f"there is no Kerberos ticket: {MEND}"
    gssapi = importlib.import_module("gssapi")
    try:
        # raises where it has expired
        gssapi.Credentials(usage="initiate", store={"ccache": f"FILE:{cache}"}).lifetime  # noqa: B018
    except gssapi.exceptions.ExpiredCredentialsError:
        return f"the Kerberos ticket has expired: {MEND}"
    except gssapi.exceptions.GSSError as exc:
        words = " ".join(str(exc).split())
        return f"the Kerberos ticket is not valid ({words}): {MEND}"
    return ""


def find_cache(settings: SshSettings) -> Path | None:
    """Return the ticket cache, which need not exist; None where `make up` found none to use."""
    copied = settings.ssh_dir / CACHE_FILE
    try:
        written = json.loads((settings.ssh_dir / TICKETS_FILE).read_bytes())
        return settings.tickets_dir / Path(written["source"]).name if written["mounted"] else copied
    except FileNotFoundError:
        # of an earlier version, which wrote the copy alone
        return copied if copied.is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return copied
