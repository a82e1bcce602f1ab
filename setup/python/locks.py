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
    """One lock file: its Python, and the pyproject.toml and .in files whose wishes it answers."""

    output: str
    python: str
    sources: tuple[str, ...]
    without_heavy: bool = False


ROOM_SOURCES = ("core", "services/gateway", "services/worker", "services/api", "services/proxy", "cli")
LOCKS = (
    *(
        Lock(f"setup/locks/{name}.lock", OLDEST_PYTHON, (f"setup/locks/{name}.in",))
        for name in ("uv", "compose-build", "compose")
    ),
    *(
        Lock(
            f"services/{room}/requirements.lock",
            CONTAINER_PYTHON,
            ("core/pyproject.toml", f"services/{room}/pyproject.toml"),
        )
        for room in ("gateway", "worker", "api", "proxy")
    ),
    Lock("cli/requirements.lock", OLDEST_PYTHON, ("cli/pyproject.toml",)),
    Lock(
        "tests/requirements.lock",
        OLDEST_PYTHON,
        (*(f"{room}/pyproject.toml" for room in ROOM_SOURCES), "tests/requirements.in"),
        without_heavy=True,
    ),
)


def renew_all(root: Path, progress: Progress) -> None:
    """All lock files, to the newest versions that the sources allow."""
    uv = uv_program(root, progress)
    for lock in LOCKS:
        with progress.step(lock.output):
            renew(root, uv, lock)


def uv_program(root: Path, progress: Progress) -> str:
    """uv, in an environment of its own."""
    python = ensure_environment(progress, root / ".cache" / "tools" / "uv", [root / "setup" / "locks" / "uv.lock"])
    return str(python.parent / "uv")


def renew(root: Path, uv: str, lock: Lock) -> None:
    """One lock file."""
    text = run(compile_argv(uv, lock), stdin="\n".join(wishes(root, lock)) + "\n", cwd=root)
    if "://" in text:
        raise SetupError(f"{lock.output} would hold an address; pin what asks for it to a release")
    (root / lock.output).write_text(text, encoding="utf-8")


def compile_argv(uv: str, lock: Lock) -> list[str]:
    """uv's command line; wishes come on standard input, so that no path gets into the lock."""
    flags = ["--quiet", "--universal", "--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header"]
    return [uv, "pip", "compile", *flags, "--upgrade", "--python-version", lock.python, "-"]


def wishes(root: Path, lock: Lock) -> list[str]:
    """Requirements of all sources; our own packages are not on any registry, and must not be looked for there."""
    found = [wish for source in lock.sources for wish in read_wishes(root / source)]
    if any(re.match(r"bouchet[-_]core\b", wish) for wish in found) and "core/pyproject.toml" not in lock.sources:
        found += read_wishes(root / "core" / "pyproject.toml")
    return sorted({wish for wish in found if not OURS.match(wish) and not (lock.without_heavy and HEAVY.match(wish))})


def read_wishes(path: Path) -> Iterable[str]:
    """The dependencies of a pyproject.toml, or the lines of an .in file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return list(map(str, tomllib.loads(text)["project"].get("dependencies", [])))
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
