"""The catalog file that `bouchet models add` writes: `sites/NAME.added.yaml`, which people may edit too.

It is changed as text, a block of lines for each model, so that comments and order stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .env_edit import replace_file
from .errors import CommandError
from .settings import PROJECT

HEAD = """\
# yaml-language-server: $schema=../schemas/models.schema.json
# Models that `bouchet models add` added; edit them as you like (docs/catalog.md). `bouchet models remove` removes them.
models:
"""
FOLDER = "sites"


class AddedModels:
    """Reads and writes the file beside the site file."""

    def __init__(self, environment: Mapping[str, str], project: Path = PROJECT) -> None:
        self._folder = project / (environment.get("BOUCHET_SITE_DIR") or FOLDER)

    def has(self, file: str, model: str) -> bool:
        """Return whether the file has an entry of that model."""
        return bool(_block(model).search(self._read(self._path(file))))

    def write(self, file: str, model: str, block: str) -> Path:
        """Add the model's lines, or replace them; return the file. Raises CommandError where it cannot be written."""
        path = self._path(file)
        text = _block(model).sub("", self._read(path)) or HEAD
        self._save(path, text.rstrip("\n") + "\n" + block)
        return path

    def remove(self, file: str, model: str) -> bool:
        """Remove the model's lines; False where there are none. A file without models is removed."""
        path = self._path(file)
        text = self._read(path)
        rest = _block(model).sub("", text)
        if rest == text:
            return False
        if re.search(r"(?m)^  \S", rest):
            self._save(path, rest)
        else:
            path.unlink()
        return True

    def _path(self, file: str) -> Path:
        return self._folder / Path(file).name

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as exc:
            raise CommandError(f"cannot read {path}: {exc}") from exc

    def _save(self, path: Path, text: str) -> None:
        """Replace the file as a whole: the stack reads it. All users may read it, as the containers' user has to."""
        replace_file(path, text, 0o644)


def _block(model: str) -> re.Pattern[str]:
    """Return a pattern for the model's lines: its key, and all lines below that are indented further or empty."""
    return re.compile(rf"(?m)^  [\"']?{re.escape(model)}[\"']?:.*\n(?:(?:    .*|[ \t]*)(?:\n|\Z))*")
