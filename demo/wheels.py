"""Locked wheels, downloaded for a node's Python and system by whatever Python this machine has."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .commands import ProgramFailedError, ProvisionError, run

COMPLETE = ".complete"
DOWNLOAD_TIMEOUT_S = 1800
# pip keeps what it fetched only when it ends well, so it is called for a part of the lock at a time.
PARTS = 6
AT_ONCE = 2

_HASH = r" \\\n +--hash=sha256:[0-9a-f]{64}"
_REQUIREMENT = re.compile(rf"^(?P<name>[\w.-]+)==(?P<version>\S+)(?P<hashes>(?:{_HASH})+)$", re.M)


@dataclass(frozen=True)
class Requirement:
    """One entry of a lock: a package, its version and the files that will do."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.hashes)])


@dataclass(frozen=True)
class WheelTarget:
    """What the wheels have to run on: Python "3.11", glibc "2.36", machine "x86_64"."""

    python: str
    glibc: str
    machine: str


def parse_lock(text: str) -> list[Requirement]:
    """Parse the entries of a lock; ValueError for any other line."""
    rest = re.sub(r"(?m)^#.*\n", "", _REQUIREMENT.sub("", text)).strip()
    if rest:
        raise ValueError(f"not a locked requirement: {rest.splitlines()[0]}")
    found = _REQUIREMENT.finditer(text)
    return [Requirement(m["name"], m["version"], tuple(re.findall(r"[0-9a-f]{64}", m["hashes"]))) for m in found]


def platform_tags(target: WheelTarget) -> list[str]:
    """Return every platform tag of a wheel that runs there, the newest first."""
    newest = int(target.glibc.split(".")[1])
    tags = [f"manylinux_2_{minor}_{target.machine}" for minor in range(newest, 4, -1)]
    return [*tags, *(f"manylinux{year}_{target.machine}" for year in ("2014", "2010", "1"))]


def download_argv(target: WheelTarget, requirements: Path, into: Path) -> list[str]:
    """Return pip's command line. Nothing is resolved, and only what the lock names is accepted."""
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    argv += ["--no-deps", "--require-hashes", "--only-binary=:all:"]
    argv += ["--python-version", target.python, "--implementation", "cp"]
    for abi in (f"cp{target.python.replace('.', '')}", "abi3", "none"):
        argv += ["--abi", abi]
    for tag in platform_tags(target):
        argv += ["--platform", tag]
    return [*argv, "--dest", str(into), "--requirement", str(requirements)]


def is_complete(lock: Path, into: Path) -> bool:
    """Tell whether a download of this lock completed there."""
    mark = into / COMPLETE
    return mark.is_file() and mark.read_text() == _digest(lock)


def download(lock: Path, into: Path, target: WheelTarget) -> None:
    """Fetch what is missing; ProvisionError with advice when a wheel cannot be had."""
    if is_complete(lock, into):
        return
    into.mkdir(parents=True, exist_ok=True)
    locked = parse_lock(lock.read_text())
    present = {_digest(wheel) for wheel in into.glob("*.whl")}
    missing = [requirement for requirement in locked if not present & set(requirement.hashes)]
    parts = [missing[start::PARTS] for start in range(PARTS)]
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda part: _download_part(part, into, target), parts))
    finally:
        _remove_others(into, locked)
    for wheel in into.glob("*.whl"):
        wheel.chmod(0o644)
    (into / COMPLETE).write_text(_digest(lock))


def _remove_others(into: Path, locked: Sequence[Requirement]) -> None:
    """Remove wheels that no entry names, such as those that a full disk or a lost connection truncated."""
    known = {digest for requirement in locked for digest in requirement.hashes}
    for wheel in into.glob("*.whl"):
        if _digest(wheel) not in known:
            wheel.unlink()


def _download_part(part: Sequence[Requirement], into: Path, target: WheelTarget) -> None:
    if not part:
        return
    with TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text("".join(f"{requirement}\n" for requirement in part))
        try:
            run(download_argv(target, requirements, into), timeout_s=DOWNLOAD_TIMEOUT_S)
        except ProgramFailedError as exc:
            raise explain(exc) from exc


def explain(failure: ProgramFailedError) -> ProvisionError:
    """Turn pip's failure into a message with the next step; other failures are returned unchanged."""
    if "No module named pip" in failure.output:
        return ProvisionError(f"{sys.executable} has no pip: install python3-pip, or run with a Python that has it")
    if unfound := re.search(r"No matching distribution found for (\S+)", failure.output):
        return ProvisionError(f"pip finds no wheel for {unfound[1]}: {_index_hint(unfound[1])}")
    if "DO NOT MATCH THE HASHES" in failure.output:
        return ProvisionError(f"a package index gave another file than the lock names. {failure}")
    return failure


def _index_hint(requirement: str) -> str:
    if requirement.startswith("torch==") and "+cpu" in requirement:
        return "point PIP_EXTRA_INDEX_URL at PyTorch's CPU wheel index"
    return "is the package index of pip's configuration reachable, and complete?"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
