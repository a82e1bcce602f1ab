"""The document that Claude Code gets with `--settings`: it outranks the person's settings files, and changes none.

Fields that an older Claude Code does not know are ignored there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bouchet_cli.client.deployments import DeploymentInfo

from .claude_env import settings_block

SECRET = "ANTHROPIC_AUTH_TOKEN"
# Claude Code's own default asks the served model to judge each tool call: a dozen requests for one command
PERMISSION_MODE = "default"
MAX_SETTINGS_BYTES = 1 << 20


def claude_settings(
    variables: Mapping[str, str], served: Sequence[DeploymentInfo], *, keeps_mode: bool, with_key: bool = True
) -> dict[str, Any]:
    """Return the document. served: the ready deployments, the chosen one first; keeps_mode: the person has set a mode.

    with_key: False for a document that `ps` shows.
    """
    own = {name: value for name, value in variables.items() if with_key or name != SECRET}
    permissions = {} if keeps_mode else {"permissions": {"defaultMode": PERMISSION_MODE}}
    return {
        "env": settings_block(own),
        **permissions,
        "modelPicker": {"options": _picker_options(served), "replaceBuiltInOptions": True},
    }


def _picker_options(served: Iterable[DeploymentInfo]) -> list[dict[str, str]]:
    """Return a row of `/model` for each name."""
    rows: dict[str, dict[str, str]] = {}
    for deployment in served:
        window = f", {deployment.job.window:,} tokens" if deployment.job.window else ""
        row = {"model": deployment.alias, "label": deployment.alias, "description": f"{deployment.model}{window}"}
        rows.setdefault(deployment.alias, row)
    return list(rows.values())


def sets_permission_mode(environment: Mapping[str, str], folder: Path) -> bool:
    """Return whether a settings file of the person or the project names a permission mode."""
    project = folder / ".claude"
    files = (_config_folder(environment) / "settings.json", project / "settings.json", project / "settings.local.json")
    return any(_names_mode(file) for file in files)


def _names_mode(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            settings = json.loads(opened.read(MAX_SETTINGS_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    permissions = settings.get("permissions") if isinstance(settings, dict) else None
    return isinstance(permissions, dict) and isinstance(permissions.get("defaultMode"), str)


def latest_session(environment: Mapping[str, str], folder: Path, since: float) -> str | None:
    """Return the id of the session in that folder that was written last, None if none was since then (epoch)."""
    sessions = _config_folder(environment) / "projects" / re.sub(r"[^A-Za-z0-9]", "-", str(folder))
    try:
        files = [(file.stat().st_mtime, file.stem) for file in sessions.iterdir() if file.suffix == ".jsonl"]
    except OSError:
        return None
    changed_at, session = max(files, default=(0.0, ""))
    return session if changed_at >= since and session else None


def _config_folder(environment: Mapping[str, str]) -> Path:
    configured = environment.get("CLAUDE_CONFIG_DIR")
    return Path(configured) if configured else Path(environment.get("HOME") or Path.home()) / ".claude"


def memory_file(document: Mapping[str, Any]) -> str:
    """Return the path of a file in memory that child processes read.

    `ps` would show an argument, and a file on disk would remain after the session.
    """
    descriptor = os.memfd_create("bouchet-claude-settings", 0)
    os.set_inheritable(descriptor, True)
    with os.fdopen(os.dup(descriptor), "w") as file:
        json.dump(document, file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return f"/proc/self/fd/{descriptor}"


def has_memory_files() -> bool:
    """Return whether this system has files in memory."""
    return hasattr(os, "memfd_create")
