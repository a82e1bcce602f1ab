"""The job scripts of this version (`remote/`), as worker and gateway carry them, and their folder on the cluster.

On the cluster all are in one folder, named by their content: `<root>/remote/<digest>/`. The worker uploads them, and
the gateway, which has its own copy, accepts nothing else there and runs nothing else.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bouchet_core.errors import ConfigurationError

# sub-folders of remote/
SCRIPT_FOLDERS = ("job", "batch", "login", "shared")
SCRIPT_SUFFIXES = (".py", ".sh", ".sbatch")
# an empty file, uploaded last: where it exists, all files of the bundle do
COMPLETE_MARKER = "complete"


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

    def folder(self, root: str) -> str:
        """Return the scripts' folder below the site's root."""
        return posixpath.join(root, "remote", self.digest)

    def staged_files(self) -> Mapping[str, bytes]:
        """Return all files of that folder by name."""
        return {**self.files, COMPLETE_MARKER: b""}


def load_scripts(directory: Path) -> ScriptBundle:
    """Read the scripts of all sub-folders of remote/. Raises ConfigurationError when one cannot be read."""
    try:
        folders = [sorted((directory / name).iterdir()) for name in SCRIPT_FOLDERS]
        paths = [path for folder in folders for path in folder if path.suffix in SCRIPT_SUFFIXES]
        return ScriptBundle({path.name: path.read_bytes() for path in paths})
    except OSError as exc:
        problem = f"cannot be read: {exc.strerror}; build the images again"
        raise ConfigurationError(str(exc.filename), problem) from exc
