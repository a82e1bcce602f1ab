"""`make lock`: renews every requirements.lock with hashes and without any registry's address."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from setup.command import run
from setup.errors import SetupError
from setup.progress import Progress

from .python_env import ensure_environment

CONTAINER_PYTHON = "3.13"
OLDEST_PYTHON = "3.11"
OURS = re.compile(r"bouchet[-_]")
HEAVY = re.compile(r"litellm\b")  # 120 packages, and it wants another rq than the worker


@dataclass(frozen=True)
class Lock:
    """One lock file: its Python, and the pyproject.toml and .in files whose requirements it answers."""

    output: str
    python: str
    sources: tuple[str, ...]
    without_heavy: bool = False


PACKAGE_FOLDERS = ("core", "services/gateway", "services/worker", "services/api", "services/proxy", "cli")
LOCKS = (
    *(
        Lock(f"setup/locks/{name}.lock", OLDEST_PYTHON, (f"setup/locks/{name}.in",))
        for name in ("uv", "compose-build", "compose")
    ),
    *(
        Lock(
            f"services/{service}/requirements.lock",
            CONTAINER_PYTHON,
            ("core/pyproject.toml", f"services/{service}/pyproject.toml"),
        )
        for service in ("gateway", "worker", "api", "proxy")
    ),
    Lock("cli/requirements.lock", OLDEST_PYTHON, ("cli/pyproject.toml",)),
    Lock(
        "tests/requirements.lock",
        OLDEST_PYTHON,
        (*(f"{folder}/pyproject.toml" for folder in PACKAGE_FOLDERS), "tests/requirements.in"),
        without_heavy=True,
    ),
)


def renew_all(root: Path, progress: Progress) -> None:
    """Renew all lock files to the newest versions that the sources allow."""
    uv = uv_program(root, progress)
    for lock in LOCKS:
        with progress.step(lock.output):
            renew(root, uv, lock)


def uv_program(root: Path, progress: Progress) -> str:
    """Return the path of uv, in its own environment."""
    python = ensure_environment(progress, root / ".cache" / "tools" / "uv", [root / "setup" / "locks" / "uv.lock"])
    return str(python.parent / "uv")


def renew(root: Path, uv: str, lock: Lock) -> None:
    """Renew one lock file."""
    text = run(compile_argv(uv, lock), stdin="\n".join(requirements(root, lock)) + "\n", cwd=root)
    if "://" in text:
        raise SetupError(f"{lock.output} would hold an address; pin what asks for it to a release")
    (root / lock.output).write_text(text, encoding="utf-8")


def compile_argv(uv: str, lock: Lock) -> list[str]:
    """Return uv's command line. Requirements come on standard input, so that no path gets into the lock."""
    flags = ["--quiet", "--universal", "--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header"]
    return [uv, "pip", "compile", *flags, "--upgrade", "--python-version", lock.python, "-"]


def requirements(root: Path, lock: Lock) -> list[str]:
    """Collect the requirements of all sources, without our own packages, which are on no registry."""
    found = [line for source in lock.sources for line in read_requirements(root / source)]
    if any(re.match(r"bouchet[-_]core\b", line) for line in found) and "core/pyproject.toml" not in lock.sources:
        found += read_requirements(root / "core" / "pyproject.toml")
    return sorted({line for line in found if not OURS.match(line) and not (lock.without_heavy and HEAVY.match(line))})


def read_requirements(path: Path) -> Iterable[str]:
    """Read the dependencies of a pyproject.toml, or the lines of an .in file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return list(map(str, tomllib.loads(text)["project"].get("dependencies", [])))
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
