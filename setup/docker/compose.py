"""Docker Compose v2: the engine's plugin if it is there, else the pinned binary in an environment of our own."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from setup.command import OnLine, run, try_run
from setup.errors import ToolMissingError
from setup.progress import Progress
from setup.python.python_env import ensure_environment

from .stack import Stack

LOCKS = ("compose-build.lock", "compose.lock")
OLDEST_PLUGIN = (2, 20)


@dataclass(frozen=True)
class Compose:
    """Compose for one stack. `prefix` is argv up to the subcommand, `env` the files' variables (none secret)."""

    prefix: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, on_line: OnLine | None = None) -> str:
        """Run a subcommand; its output."""
        return run([*self.prefix, *arguments], env=self.env, on_line=on_line)

    def containers(self) -> list[dict[str, object]]:
        """List containers as `ps --all` of Compose does: Service, State, Health, ExitCode, ..."""
        return parse_ps(self.run("ps", "--all", "--format", "json"))


def parse_ps(text: str) -> list[dict[str, object]]:
    """Parse one JSON object per line (or, from older versions, one array); warnings between them are skipped."""
    rows: list[dict[str, object]] = []
    for line in text.splitlines():
        if line.startswith("{"):
            rows.append(json.loads(line))
        elif line.startswith("["):
            rows.extend(json.loads(line))
    return rows


def find_compose(progress: Progress, stack: Stack) -> list[str]:
    """Return the argv of a Compose that works here."""
    version = try_run(["docker", "compose", "version", "--short"])
    if version and parse_version(version) >= OLDEST_PLUGIN:
        return ["docker", "compose"]
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ToolMissingError(
            "Docker Compose v2", "install the plugin (package docker-compose-plugin or docker-compose-v2)"
        )
    locks = [stack.root / "setup" / "locks" / name for name in LOCKS]
    python = ensure_environment(progress, stack.cache_dir / "tools" / "compose", locks)
    # The package's own script drops the exit status, so its binary is called directly.
    binary = next(python.parent.parent.glob("lib/python*/site-packages/compose/docker-compose"), None)
    if binary is None:
        raise ToolMissingError("Docker Compose v2", f"remove {python.parent.parent} and run `make up` again")
    return [str(binary)]


def parse_version(text: str) -> tuple[int, int]:
    """Parse `v2.40.3` into (2, 40); anything else into (0, 0)."""
    parts = text.strip().splitlines()[-1].lstrip("v").split(".") if text.strip() else []
    return (int(parts[0]), int(parts[1])) if len(parts) >= 2 and parts[0].isdigit() and parts[1].isdigit() else (0, 0)


def with_files(program: Sequence[str], stack: Stack, files: Sequence[Path], env: Mapping[str, str]) -> Compose:
    """Return Compose for this stack. It does not read .env: our parser is stricter, and no key gets near Compose."""
    chosen = [argument for file in files for argument in ("--file", str(file))]
    prefix = (
        *program,
        "--project-name",
        stack.project,
        "--project-directory",
        str(stack.root),
        "--env-file",
        "/dev/null",
    )
    return Compose((*prefix, *chosen), env)
