"""What renewing lock files changed, as a table. Pure: texts of locks in, lines out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
HASH = re.compile(r"--hash=(\S+)")
NONE = "-"
SAME_VERSION = "(other files)"


@dataclass(frozen=True, order=True)
class Change:
    """One package of one lock; `old` or `new` is `-` where the lock does not have it."""

    package: str
    old: str
    new: str


def parse_versions(text: str) -> dict[str, str]:
    """Parse a lock into package and version; several versions, for several Pythons, are joined by commas."""
    found: dict[str, list[str]] = defaultdict(list)
    for package, version in PINNED.findall(text):
        found[re.sub(r"[-_.]+", "-", package).lower()].append(version)
    return {package: ", ".join(sorted(set(versions))) for package, versions in found.items()}


def parse_hashes(text: str) -> dict[str, frozenset[str]]:
    """Parse a lock into package and the hashes of its files."""
    starts = [*PINNED.finditer(text)]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    found: dict[str, frozenset[str]] = {}
    for match, end in zip(starts, ends, strict=False):
        package = re.sub(r"[-_.]+", "-", match[1]).lower()
        found[package] = found.get(package, frozenset()) | frozenset(HASH.findall(text[match.start() : end]))
    return found


def find_changes(before: str, after: str) -> list[Change]:
    """Compare two texts of a lock. The same version with other files is a change too."""
    old, new = parse_versions(before), parse_versions(after)
    old_hashes, new_hashes = parse_hashes(before), parse_hashes(after)
    changes = []
    for package in sorted(old.keys() | new.keys()):
        was, now = old.get(package, NONE), new.get(package, NONE)
        if was != now:
            changes.append(Change(package, was, now))
        elif old_hashes[package] != new_hashes[package]:
            changes.append(Change(package, was, f"{now} {SAME_VERSION}"))
    return changes


def render_changes(changed: Mapping[str, Sequence[Change]]) -> str:
    """Render a table of lock to changes: package, old, new, and the locks; one line for one change in several locks."""
    locks: dict[Change, list[str]] = defaultdict(list)
    for lock, changes in changed.items():
        for change in changes:
            locks[change].append(lock.removesuffix("/requirements.lock"))
    if not locks:
        return "no lock has changed"
    rows = [("package", "old", "new", "locks")]
    rows += [(change.package, change.old, change.new, ", ".join(locks[change])) for change in sorted(locks)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[3]]) for row in rows)
