"""Finding, starting and failing to find a Docker engine; `docker` and `dockerd` are small scripts on PATH."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from setup.docker import engine
from setup.errors import EngineAccessError, ToolMissingError
from setup.progress import Progress

# Answers as the client does once $STATE/running is there, which only dockerd makes.
DOCKER = """#!/bin/bash
if [ -e "$STATE/running" ]; then echo 20.10.24; exit 0; fi
echo "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?" >&2; exit 1
"""
DOCKERD = """#!/bin/bash
echo "$$" > "$STATE/pid"; echo started >> "$STATE/log"; sleep 0.5; touch "$STATE/running"; exec sleep 600
"""


class Machine:
    """A PATH of our own."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.state = folder / "bin", folder
        self.bin.mkdir()

    def has(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Simulate a machine without engine and init system, with the right to install."""
    machine = Machine(tmp_path)
    for name in ("bash", "sleep", "touch"):
        (machine.bin / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(machine.bin))
    monkeypatch.setenv("STATE", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(engine, "can_install", lambda: True)
    monkeypatch.setattr(engine, "start", engine._start_by_hand)
    monkeypatch.setattr(engine, "LOG", tmp_path / "dockerd.log")
    monkeypatch.setattr(engine, "PID_FILE", tmp_path / "docker.pid")
    yield machine
    if (tmp_path / "pid").exists():
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


@pytest.fixture
def progress() -> Iterator[Progress]:
    """Kept in memory."""
    with Progress(io.StringIO()) as progress:
        yield progress


def test_ensure_engine_running_is_used(machine: Machine, progress: Progress) -> None:
    machine.has("docker", DOCKER)
    (machine.state / "running").touch()
    assert engine.ensure_engine(progress) == "20.10.24"


def test_ensure_engine_without_root_names_packages(
    machine: Machine, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "can_install", lambda: False)
    with pytest.raises(ToolMissingError, match=r"Docker engine is missing; install"):
        engine.ensure_engine(progress)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the engine outlives us on purpose
def test_ensure_engine_stopped_is_started_once(machine: Machine, progress: Progress) -> None:
    machine.has("docker", DOCKER)
    machine.has("dockerd", DOCKERD)
    (machine.state / "docker.pid").write_text(str(os.getpid()))  # left by a crash; the number is another program's
    assert engine.ensure_engine(progress) == "20.10.24"
    assert engine.ensure_engine(progress) == "20.10.24"
    assert (machine.state / "log").read_text() == "started\n"
    assert not (machine.state / "docker.pid").exists()


def test_ensure_engine_failing_start_shows_log(machine: Machine, progress: Progress) -> None:
    machine.has("docker", DOCKER)
    machine.has("dockerd", "#!/bin/bash\necho 'failed to mount overlay: no such device'; exit 1\n")
    with pytest.raises(EngineAccessError, match="failed to mount overlay"):
        engine.ensure_engine(progress)


def test_ask_version_permission_denied_names_group(machine: Machine, progress: Progress) -> None:
    machine.has("docker", "#!/bin/bash\necho 'permission denied while trying to connect' >&2; exit 1\n")
    with pytest.raises(EngineAccessError, match="usermod -aG docker"):
        engine.ensure_engine(progress)


def test_ask_version_silent_docker_host_is_named(
    machine: Machine, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("docker", DOCKER)
    monkeypatch.setenv("DOCKER_HOST", "tcp://far:2375")
    with pytest.raises(EngineAccessError, match="DOCKER_HOST=tcp://far:2375"):
        engine.ensure_engine(progress)
