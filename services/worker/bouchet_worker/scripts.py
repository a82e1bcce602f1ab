"""Bringing our scripts to the cluster, once for each version of them."""

from __future__ import annotations

from bouchet_core.errors import RemoteFileMissingError

from .context import Desk
from .launch.job_files import COMPLETE_MARKER, logs_readme


def stage_luggage(desk: Desk) -> None:
    """Our scripts, where this version of them does not lie yet."""
    folder = desk.layout.luggage(desk.luggage.digest)
    seal = f"{folder}/{COMPLETE_MARKER}"
    if is_staged(desk, seal):
        return
    scripts = {f"{folder}/{name}": content for name, content in desk.luggage.files.items()}
    desk.gateway.put_all({**scripts, desk.layout.logs_readme(): logs_readme()})
    # last: it says that all of them are there
    desk.gateway.put(seal, b"")


def is_staged(desk: Desk, path: str) -> bool:
    """Whether that file of ours lies on the cluster."""
    try:
        desk.gateway.get(path, max_bytes=1)
    except RemoteFileMissingError:
        return False
    return True
