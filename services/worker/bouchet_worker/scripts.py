"""Bringing our scripts to the cluster, once for each version of them."""

from __future__ import annotations

from bouchet_core.errors import RemoteFileMissingError

from .context import WorkerContext
from .launch.job_files import COMPLETE_MARKER, logs_readme


def stage_scripts(context: WorkerContext) -> None:
    """Our scripts, where this version of them does not lie yet."""
    folder = context.layout.scripts(context.scripts.digest)
    seal = f"{folder}/{COMPLETE_MARKER}"
    if is_staged(context, seal):
        return
    scripts = {f"{folder}/{name}": content for name, content in context.scripts.files.items()}
    context.gateway.put_all({**scripts, context.layout.logs_readme(): logs_readme()})
    # last: it says that all of them are there
    context.gateway.put(seal, b"")


def is_staged(context: WorkerContext, path: str) -> bool:
    """Whether that file of ours lies on the cluster."""
    try:
        context.gateway.get(path, max_bytes=1)
    except RemoteFileMissingError:
        return False
    return True
