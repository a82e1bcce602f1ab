"""What tests and checks need: one Python environment with all packages, a few Debian packages, Claude Code."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from setup.command import ensure_program, run
from setup.errors import CommandFailedError, DiskFullError, SetupError
from setup.progress import Progress

from .python_env import ensure_environment

PACKAGES = ("core", "services/gateway", "services/worker", "services/api", "services/proxy", "cli")
PROGRAMS = {"redis-server": ["redis-server"], "shellcheck": ["shellcheck"], "ssh-keygen": ["openssh-client"]}

# Puts the platform package's native binary in place. Called by name: newer versions of npm run no install scripts.
CLAUDE_INSTALLER = "node_modules/@anthropic-ai/claude-code/install.cjs"


def ensure_tools(root: Path, progress: Progress, *, fast: bool) -> None:
    """Install what `make test` (or, with `fast`, `make test-fast`) needs beyond a Docker engine."""
    link = partial(link_packages, root)
    link(ensure_environment(progress, root / ".venv", [root / "tests" / "requirements.lock"], link))
    for program, packages in PROGRAMS.items():
        ensure_program(progress, program, packages)
    if not fast:
        ensure_claude(root, progress)


def ensure_cli(root: Path, progress: Progress) -> None:
    """Make the environment of ./bouchet. ./bouchet compares the copy of the lock, which is written last."""
    lock = root / "cli" / "requirements.lock"
    link = partial(link_packages, root, packages=("core", "cli"))
    python = ensure_environment(progress, root / ".cache" / "cli", [lock], link)
    link(python)
    shutil.copyfile(lock, python.parent.parent / "lock")


def link_packages(root: Path, python: Path, packages: Sequence[str] = PACKAGES) -> None:
    """Write a .pth file that makes our packages importable from the repository: an editable install, only faster."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = python.parent.parent / "lib" / version / "site-packages"
    text = "".join(f"{root / package}\n" for package in packages)
    target = site / "bouchet-packages.pth"
    if not target.is_file() or target.read_text() != text:
        target.write_text(text)


def ensure_claude(root: Path, progress: Progress) -> None:
    """Install the Claude Code that tests/claude/package-lock.json pins."""
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
