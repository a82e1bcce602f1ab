"""Logins with a Kerberos ticket (GSSAPI), where ssh on the person's machine would use one.

`make up` puts a copy of the ticket cache beside what ssh resolved. Debian's python3-gssapi in the image is what
asyncssh asks for tickets; without the package, or without a cache, the other methods of the login remain.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from asyncssh import gss

from .resolved import ResolvedHop

CACHE_FILE = "krb5cc"


def ticket_options(ssh_dir: Path, hop: ResolvedHop) -> dict[str, Any]:
    """Return asyncssh's options to log in with a ticket for the host; none where ssh would not, or there are none."""
    cache = ssh_dir / CACHE_FILE
    if not (hop.gssapi and gss.gss_available and cache.is_file()):
        return {}
    return {
        "gss_host": hop.host,
        # as OpenSSH has it: the host is known by its key, not by Kerberos
        "gss_kex": False,
        "gss_auth": True,
        "gss_delegate_creds": hop.gssapi_delegates,
        "gss_store": {"ccache": f"FILE:{cache}"},
    }


def ticket_problem(ssh_dir: Path, hop: ResolvedHop) -> str:
    """Return what is wrong with the ticket for a host; '' where none is needed, or one is valid."""
    options = ticket_options(ssh_dir, hop)
    if not options:
        return ""
    gssapi = importlib.import_module("gssapi")
    try:
        # raises where it has expired
        gssapi.Credentials(usage="initiate", store=options["gss_store"]).lifetime  # noqa: B018
    except gssapi.exceptions.GSSError as exc:
        words = " ".join(str(exc).split())
        return f"the Kerberos ticket is not valid ({words}): run `kinit`, then `make up`"
    return ""
