"""The job scripts of remote/, as one bundle that is uploaded under a name made from its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bouchet_core.errors import ConfigurationError

SERVE_SCRIPT = "vllm-serve.sbatch"
BATCH_SCRIPT = "batch.sbatch"
# sub-folders of remote/; on the cluster all scripts are in one folder
SCRIPT_FOLDERS = ("job", "batch", "login", "shared")
SCRIPT_SUFFIXES = (".py", ".sh", ".sbatch")


@dataclass(frozen=True)
class ScriptBundle:
    """The job scripts by file name."""

    files: Mapping[str, bytes]

    @cached_property
    def digest(self) -> str:
        """12 hex characters over names and contents; versions with different content never share a folder."""
        whole = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            whole.update(f"{name} {len(content)}\n".encode() + content)
        return whole.hexdigest()[:12]


def load_scripts(directory: Path) -> ScriptBundle:
    """Read the scripts of all sub-folders of remote/. Raises ConfigurationError when one cannot be read."""
    try:
        folders = [sorted((directory / name).iterdir()) for name in SCRIPT_FOLDERS]
        paths = [path for folder in folders for path in folder if path.suffix in SCRIPT_SUFFIXES]
        return ScriptBundle({path.name: path.read_bytes() for path in paths})
    except OSError as exc:
        problem = f"cannot be read: {exc.strerror}; build the images again"
        raise ConfigurationError(str(exc.filename), problem) from exc
