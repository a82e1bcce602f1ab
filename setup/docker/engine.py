"""The Docker engine: the one that answers is used; else root on Debian gets one installed and started.

Nothing about it is remembered between runs: whether it answers is asked each time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from setup.command import can_install, install, run, try_run
from setup.errors import CommandFailedError, EngineAccessError, ToolMissingError
from setup.progress import Progress

PACKAGES = ("docker.io", "docker-cli", "iptables", "ca-certificates")
LOG = Path("/var/log/dockerd.log")
PID_FILE = Path("/var/run/docker.pid")
START_TIMEOUT_S = 60
ASK = ("docker", "version", "--format", "{{.Server.Version}}")
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
