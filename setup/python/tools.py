"""What tests and checks need: one Python environment with all rooms, a few Debian packages, Claude Code."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from setup.command import run
from setup.errors import CommandFailedError, DiskFullError, SetupError
from setup.progress import Progress

from .packages import ensure_program
from .python_env import ensure_environment

ROOMS = ("core", "services/gateway", "services/worker", "services/api", "services/proxy", "cli")
PROGRAMS = {"redis-server": ["redis-server"], "shellcheck": ["shellcheck"], "ssh-keygen": ["openssh-client"]}

# Puts the platform package's native binary in place. Called by name: newer versions of npm run no install scripts.
CLAUDE_INSTALLER = "node_modules/@anthropic-ai/claude-code/install.cjs"


def ensure_tools(root: Path, progress: Progress, *, fast: bool) -> None:
    """Everything that `make test` (or, fast, `make test-fast`) needs beyond a Docker engine."""
    link = partial(link_rooms, root)
    link(ensure_environment(progress, root / ".venv", [root / "tests" / "requirements.lock"], link))
    for program, packages in PROGRAMS.items():
        ensure_program(progress, program, packages)
    if not fast:
        ensure_claude(root, progress)


def ensure_cli(root: Path, progress: Progress) -> None:
    """The environment of ./bouchet. The copy of the lock, written last, is what ./bouchet compares."""
    lock = root / "cli" / "requirements.lock"
    link = partial(link_rooms, root, rooms=("core", "cli"))
    python = ensure_environment(progress, root / ".cache" / "cli", [lock], link)
    link(python)
    shutil.copyfile(lock, python.parent.parent / "lock")


def link_rooms(root: Path, python: Path, rooms: Sequence[str] = ROOMS) -> None:
    """A .pth file makes the rooms importable from where they lie, as an editable install would, only sooner."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = python.parent.parent / "lib" / version / "site-packages"
    text = "".join(f"{root / room}\n" for room in rooms)
    target = packages / "bouchet-rooms.pth"
    if not target.is_file() or target.read_text() != text:
        target.write_text(text)


def ensure_claude(root: Path, progress: Progress) -> None:
    """The pinned Claude Code of tests/claude/package-lock.json, as npm installs it."""
    folder = root / "tests" / "claude"
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".made-from"
    if installed.is_file() and installed.read_text() == lock.read_text():
        return
    ensure_program(progress, "npm", ["npm", "nodejs"])
    with progress.step("Claude Code for the tests (npm)") as step:
        try:
            run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, on_line=step.say)
            run(["node", CLAUDE_INSTALLER], cwd=folder)
        except DiskFullError:
            raise
        except CommandFailedError as exc:
            shutil.rmtree(folder / "node_modules", ignore_errors=True)
            raise SetupError(f"npm could not install Claude Code for the tests: {exc}") from exc
    installed.write_text(lock.read_text())
