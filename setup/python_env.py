"""Python environments made from hashed locks: made beside and renamed, remade when the lock changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from .command import OnLine, run
from .errors import CommandFailed, ToolMissing
from .packages import can_install, install
from .progress import Progress

STAMP = ".made-from"
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--require-hashes", "--no-deps")


def ensure_environment(
    progress: Progress, target: Path, locks: Sequence[Path], finish: Callable[[Path], None] | None = None
) -> Path:
    """A virtual environment at `target` with exactly what `locks` say; its python.

    Locks are installed one after another without build isolation, so an earlier one may hold what a later one
    builds with. `finish` gets the new environment's python (for our own packages).
    """
    wanted = digest_of(locks)
    stamp = target / STAMP
    python = target / "bin" / "python"
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    with progress.step(f"Python environment {target.name}") as step:
        _ensure_venv_module(progress)
        _make(target, locks, step.say)
        if finish is not None:
            finish(python)
        stamp.write_text(wanted)
    return python


def digest_of(files: Sequence[Path]) -> str:
    """Names this Python and the files' contents."""
    summary = hashlib.sha256(sys.version.encode())
    for file in files:
        summary.update(file.read_bytes())
    return summary.hexdigest()


def _make(target: Path, locks: Sequence[Path], say: OnLine) -> None:
    """A venv has its own path in its scripts, so it is made in place; the stamp, written last, says it is whole."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        venv.create(target, with_pip=True, symlinks=os.name != "nt")
        for lock in locks:
            say(lock.name)
            run([str(target / "bin" / "python"), *PIP, "--no-build-isolation", "-r", str(lock)])
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _ensure_venv_module(progress: Progress) -> None:
    """Debian packs ensurepip apart from Python, so `import venv` alone proves nothing."""
    try:
        run([sys.executable, "-c", "import ensurepip, venv"])
    except CommandFailed as exc:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        if not can_install():
            raise ToolMissing("Python's venv module", f"install {package} (`sudo apt-get install {package}`)") from exc
        install(progress, "Python's venv module", [package])
