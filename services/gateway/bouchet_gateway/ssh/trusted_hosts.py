"""Host keys that a person accepted with `bouchet tunnel --trust`, in a known_hosts file of the gateway's own.

~/.ssh is mounted read-only, so it is never changed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bouchet_core.errors import HostKeyNotTrustedError
from bouchet_core.tunnel import HostKey


@dataclass(frozen=True)
class OfferedKey:
    """A host key that the server showed and that was refused. line: the key as known_hosts writes it."""

    shown: HostKey
    line: str


class TrustedHosts:
    """The file, and the key that waits for a person's decision. A file that cannot be written is told, not hidden."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offered: OfferedKey | None = None

    def trust(self, fingerprint: str) -> None:
        """Accepts the offered key, if it is the one that the person saw. Raises HostKeyNotTrustedError otherwise."""
        offered = self.offered
        if offered is None:
            raise HostKeyNotTrustedError(
                "no host key waits to be trusted; `bouchet tunnel` shows how the connection is"
            )
        if offered.shown.changed:
            raise HostKeyNotTrustedError(
                f"the host key of {offered.shown.place} has CHANGED and cannot be trusted this way: ask the site first"
            )
        if fingerprint.strip() != offered.shown.fingerprint:
            raise HostKeyNotTrustedError(
                f"the server shows {offered.shown.fingerprint}, which is not the fingerprint you gave"
            )
        self._write([*self._lines(), f"{offered.shown.place} {offered.line}"])
        self.offered = None

    def forget(self, place: str) -> None:
        """Removes what was accepted for that host. Raises HostKeyNotTrustedError when there is nothing."""
        lines = self._lines()
        kept = [line for line in lines if line.split(" ", 1)[0] != place]
        if len(kept) == len(lines):
            raise HostKeyNotTrustedError(
                f"no key of {place!r} was trusted here; those of ~/.ssh/known_hosts are yours to edit"
            )
        self._write(kept)

    def knows(self, place: str) -> bool:
        """Whether a key of that host was accepted here."""
        return any(line.split(" ", 1)[0] == place for line in self._lines())

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []

    def _write(self, lines: list[str]) -> None:
        beside = self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        except OSError as exc:
            raise HostKeyNotTrustedError(f"the accepted key cannot be kept: {exc.strerror} ({self.path})") from exc
