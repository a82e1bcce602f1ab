"""Turns the fast path of a connection on and off. Without it, asyncssh's own methods carry every packet."""

from __future__ import annotations

import functools
import logging
from typing import Any

import asyncssh

from .packets import FastPath

log = logging.getLogger(__name__)

# the fast path relies on private methods and attributes of asyncssh, and was written and tested for these versions
ASYNCSSH_VERSIONS = frozenset({"2.24.1"})


def enable_fast_path(connection: asyncssh.SSHClientConnection) -> bool:
    """Turn the fast path on for a connection that is logged in; return whether it is on.

    With an asyncssh version that is not in ASYNCSSH_VERSIONS the connection stays as it is.
    """
    if asyncssh.__version__ not in ASYNCSSH_VERSIONS:
        _log_unknown_version(asyncssh.__version__)
        return False
    FastPath(connection)
    return True


def disable_fast_path(connection: asyncssh.SSHClientConnection) -> None:
    """Send what is pending and restore asyncssh's methods, if the fast path is on. Do this before closing."""
    fast_path = fast_path_of(connection)
    if fast_path is not None:
        fast_path.end()


def use_fast_path(channel: Any) -> None:
    """Let the channel of a forward (asyncssh.SSHChannel) use the fast path of its connection, if that is on."""
    fast_path = fast_path_of(channel._conn)
    if fast_path is not None:
        fast_path.add_channel(channel)


def fast_path_of(connection: Any) -> FastPath | None:
    """Return the fast path of a connection, None when it is off."""
    found = getattr(connection, "fast_path", None)
    return found if isinstance(found, FastPath) else None


@functools.cache
def _log_unknown_version(version: str) -> None:
    """Log once a version that the fast path does not support."""
    supported = ", ".join(sorted(ASYNCSSH_VERSIONS))
    log.warning("asyncssh %s is not supported by the SSH fast path (supported: %s): it is off", version, supported)
