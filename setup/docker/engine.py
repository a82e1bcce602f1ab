"""The Docker engine and Compose v2: what works here is used, else root on Debian gets both.

Nothing about them is remembered between runs. Compose is the engine's plugin, or a pinned binary in an environment of
our own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from setup.command import OnLine, can_install, install, run, try_run
from setup.errors import CommandFailedError, EngineAccessError, ToolMissingError
from setup.progress import Progress
from setup.python.environments import ensure_environment

from .stack import Stack

PACKAGES = ("docker.io", "docker-cli", "iptables", "ca-certificates")
LOG = Path("/var/log/dockerd.log")
PID_FILE = Path("/var/run/docker.pid")
START_TIMEOUT_S = 60
ASK = ("docker", "version", "--format", "{{.Server.Version}}")
ASK_CPU = ("docker", "version", "--format", "{{.Server.Arch}}")
ADVICE = {
    "darwin": "install Docker Desktop, OrbStack or Colima, start it, and run `make up` again",
    "linux": "install it (on Debian and Ubuntu: `sudo apt-get install docker.io`, then "
    "`sudo usermod -aG docker $USER` and log in again), or run `make up` as root once",
}


def ensure_engine(progress: Progress) -> str:
    """Return the version of a Docker engine that answers, after installing and starting one if necessary."""
    version = ask_version()
    if version:
        return version
    if sys.platform == "darwin" or not can_install():
        raise ToolMissingError("a Docker engine", ADVICE.get(sys.platform, ADVICE["linux"]))
    if shutil.which("dockerd") is None or shutil.which("docker") is None:
        install(progress, "a Docker engine", PACKAGES)
    with progress.step("starting the Docker engine"):
        start()
    version = ask_version()
    if not version:
        raise EngineAccessError(f"the Docker engine started and does not answer; its log is {LOG}")
    return version


def ask_version() -> str | None:
    """Return the engine's version, None if none answers. EngineAccessError if it refuses this user."""
    if shutil.which("docker") is None:
        return None
    try:
        return run(ASK).strip().splitlines()[-1]
    except CommandFailedError as exc:
        text = exc.output.lower()
        if "permission denied" in text:
            raise EngineAccessError(
                "the Docker engine refuses this user; run `sudo usermod -aG docker $USER`, log in again, then `make up`"
            ) from exc
        if os.environ.get("DOCKER_HOST"):
            raise EngineAccessError(
                f"no engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}; unset it, or start it"
            ) from exc
        return None


def ask_cpu() -> str:
    """Return the CPU type of the engine's containers, as site files call it: that of its virtual machine on a Mac."""
    return "aarch64" if (try_run(ASK_CPU) or "").strip() == "arm64" else "x86_64"


def start() -> None:
    """Start the engine through the init system, or by hand where none runs (containers, small VMs).

    Harmless when one is starting already: dockerd itself refuses to run twice.
    """
    if Path("/run/systemd/system").is_dir():
        run(["systemctl", "start", "docker"])
    else:
        _start_by_hand()


def _start_by_hand() -> None:
    _drop_stale_pid()
    with LOG.open("ab") as log:
        # Its own session: Ctrl-C on make must not reach it, and it outlives us.
        process = subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if try_run(ASK):
            return
        if process.poll() is not None and not _pid_of_engine():
            break
        time.sleep(0.3)
    tail = "\n".join(f"  | {line}" for line in LOG.read_text(errors="replace").splitlines()[-8:])
    raise EngineAccessError(f"dockerd does not start here; the end of {LOG}:\n{tail}")


def _drop_stale_pid() -> None:
    """Remove the pid file of a crashed engine: its number may belong to another program now."""
    if PID_FILE.exists() and not _pid_of_engine():
        PID_FILE.unlink(missing_ok=True)


def _pid_of_engine() -> int | None:
    try:
        pid = int(PID_FILE.read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return None
    return pid if name == "dockerd" else None


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
