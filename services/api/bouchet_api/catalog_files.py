"""The catalog as it stands in the files now: edited while the API runs, it counts from the next request on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from bouchet_core.catalog import Catalog, load_catalog

Stamp = tuple[tuple[int, int], ...]


class CatalogFiles:
    """Reads the files again when they change. `default` outranks the default that the files name."""

    def __init__(self, paths: Sequence[Path], default: str | None = None) -> None:
        self._paths, self._default = tuple(paths), default
        self._lock = Lock()
        self._read: tuple[Stamp, Catalog] | None = None

    def current(self) -> Catalog:
        """The catalog; ConfigurationError names file and line of what somebody broke."""
        with self._lock:
            stamp = tuple(_stamp(path) for path in self._paths)
            if self._read is None or self._read[0] != stamp:
                files = load_catalog(*self._paths)
                self._read = stamp, Catalog(files.entries, self._default or files.default)
            return self._read[1]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        seen = path.stat()
    except OSError:
        return 0, 0  # load_catalog says why
    return seen.st_mtime_ns, seen.st_size
