"""Installs real clients in `.cache/tools`, by hash: Node's from package-lock.json, Python's from a lock."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setup.progress import Progress
from setup.python.environments import ensure_environment, ensure_node_packages

ROOT = Path(__file__).parents[2]
FOLDER, TOOLS = ROOT / "tests" / "clients", ROOT / ".cache" / "tools"


def node_packages(name: str) -> Path:
    """Return the folder `node_modules` of a lock of this folder, installed: `codex` or `more`."""
    return ensure_node_packages(ROOT, _progress(), FOLDER / name, f"clients for the tests ({name}, npm)")


def python_client(name: str) -> Path:
    """Return the Python of a client's own environment."""
    lock = FOLDER / "locks" / f"{name}.lock"
    return ensure_environment(_progress(), TOOLS / f"client-{name}", [lock])


def codex_program() -> Path:
    """Return the native Codex, which comes in a package for the platform."""
    return _one(node_packages("codex"), "@openai/codex-*/vendor/*/bin/codex")


def opencode_program() -> Path:
    """Return the native opencode."""
    return _one(node_packages("more"), "opencode-linux-*/bin/opencode")


def gemini_argv() -> list[str]:
    """Return how Gemini CLI is started."""
    node = shutil.which("node")
    assert node, "node is not installed"
    return [node, str(node_packages("more") / "@google/gemini-cli/bundle/gemini.js")]


def claude_argv(version: str) -> list[str]:
    """Return how that version of Claude Code is started: older ones are a script, newer ones a native program."""
    folder = node_packages("more") / f"claude-code-{version}"
    native = sorted(folder.glob("bin/claude*"))
    if native:
        return [str(native[0])]
    node = shutil.which("node")
    assert node, "node is not installed"
    return [node, str(folder / "cli.js")]


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    assert found, f"nothing in {folder} is {pattern}"
    return found[0]


def _progress() -> Progress:
    return Progress(sys.stderr)
