"""A compute node for one job: its files, a fake `apptainer` on PATH, and the batch script under bash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
REMOTE = REPOSITORY / "remote"
KEY = "k" * 64
JOB_ID = "77"
WAIT_S = 60.0


@cache
def old_python() -> str | None:
    """A Python 3.6, the oldest that clusters run; None on a machine without one."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for candidate in (shutil.which("python3.6"), *map(str, sorted(home.glob("versions/3.6*/bin/python3")))):
        probe = [candidate, "-c", "import sys; assert sys.version_info[:2] == (3, 6)"]
        if candidate and subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0:
            return candidate
    return None


# the oldest Python at hand runs everything; a newer one proves itself on one job from end to end
OLDEST = old_python() or sys.executable
BOTH = list(dict.fromkeys([OLDEST, sys.executable]))


@dataclass
class Node:
    """Where one job runs. Change `spec` and the files before `start`."""

    root: Path
    path: str
    spec: dict[str, Any]
    mode: str = "serve"
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def job_dir(self) -> Path:
        return self.root / "jobs" / "bouchet-aa-1"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    def log(self) -> str:
        return (self.root / "logs" / f"{JOB_ID}.log").read_text()

    def start(self) -> subprocess.Popen[bytes]:
        (self.job_dir / "spec.json").write_text(json.dumps(self.spec))
        environment = {
            "PATH": self.path,
            "HOME": str(self.root),
            "TMPDIR": str(self.temporary),
            "SLURM_JOB_ID": JOB_ID,
            "SLURMD_NODENAME": "node7",
            "CUDA_VISIBLE_DEVICES": "3",
            "FAKE_APPTAINER_RECORD": str(self.root / "record.json"),
            "FAKE_APPTAINER_MODE": self.mode,
            "BOUCHET_KEEPALIVE_S": "0.2",
            # a newer bash takes back what it has changed since
            "BASH_COMPAT": "4.4",
            **self.environment,
        }
        words = ["bash", str(REMOTE / "vllm-serve.sbatch"), str(self.job_dir), str(REMOTE)]
        with (self.root / "logs" / f"{JOB_ID}.log").open("ab") as log:
            self.process = subprocess.Popen(
                words, env=environment, cwd=self.root, stdout=log, stderr=log, start_new_session=True
            )
        return self.process

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=WAIT_S)

    def run(self) -> int:
        self.start()
        return self.wait()

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "record.json").read_text()))

    def end(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "logs" / f"end-{JOB_ID}.json").read_text()))

    @property
    def connection_file(self) -> Path:
        return self.root / "logs" / f"connection-{JOB_ID}.json"

    def connection(self) -> dict[str, Any]:
        """The connection file, once its server answers."""
        until(lambda: self.connection_file.exists() and (self.root / "record.json").exists(), self)
        said = dict(json.loads(self.connection_file.read_text()))
        until(lambda: listens(said["port"]), self)
        return said

    def left_behind(self) -> list[str]:
        """Scratch files of the job, and processes that still name its folder; the killed may take a moment to go."""
        deadline = time.monotonic() + WAIT_S
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        return [*map(str, self.temporary.iterdir()), *self.processes().values()]

    def processes(self) -> dict[int, str]:
        """What runs with the job's folder in its command line, by pid."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and entry.name != str(os.getpid()):
                with suppress(OSError):
                    words = (entry / "cmdline").read_bytes().decode(errors="replace")
                    if str(self.root) in words:
                        found[int(entry.name)] = words.replace("\0", " ")
        return found


def until(holds: Callable[[], bool], node: Node) -> None:
    """Waits; fails with the job's log."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, node.log()
        time.sleep(0.02)


def ask(port: int, path: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return int(response.status)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node whose python3 is the oldest at hand, or the one that the test names (indirect parameter)."""
    with running(make_node(tmp_path, str(getattr(request, "param", OLDEST))), start=False) as node:
        yield node


@contextmanager
def running(node: Node, start: bool = True) -> Iterator[Node]:
    """Nothing of the node's job is left afterwards."""
    try:
        if start:
            node.start()
        yield node
    finally:
        end(node)


def end(node: Node) -> None:
    """Kills what runs."""
    if node.process is not None and node.process.poll() is None:
        os.killpg(node.process.pid, signal.SIGKILL)
        node.process.wait()
    # what the script started has process groups of its own
    for pid in node.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def make_node(tmp_path: Path, python: str) -> Node:
    root = tmp_path / "it's a $root"
    for folder in ("jobs/bouchet-aa-1", "logs", "tmp", "bin", "images", "models/Org/Name", "cache"):
        (root / folder).mkdir(parents=True)
    program(root / "bin" / "python3", f'exec "{python}" "$@"')
    fake = REPOSITORY / "tests" / "fakes" / "apptainer_program.py"
    # like Apptainer, it stays beside what it runs
    program(root / "bin" / "apptainer", f'"{sys.executable}" "{fake}" "$@"\nexit $?')
    program(root / "bin" / "scontrol", 'echo "KillWait                = 7 sec"')
    program(root / "bin" / "nvidia-smi", 'echo "NVIDIA H200, 580.95.05"')
    image = root / "images" / "pin.sif"
    image.write_bytes(b"an image")
    Path(f"{image}.sha256").write_text(f"{hashlib.sha256(b'an image').hexdigest()}  pin.sif\n")
    (root / "models/Org/Name/config.json").write_text("{}")
    job_dir = root / "jobs" / "bouchet-aa-1"
    (job_dir / "vllm.args").write_text('--max-model-len\n4096\n--x\na\'; echo $(nasty) "b" *\n')
    (job_dir / "setup.sh").write_text("")
    (job_dir / "key").write_text(f"{KEY}\n")
    (job_dir / "key").chmod(0o600)
    return Node(root, f"{root}/bin:/usr/bin:/bin", spec_of(root, image))


def of_two(node: Node) -> Node:
    """The same node, first of two; the second one is a fake `srun` beside it."""
    fakes = REPOSITORY / "tests" / "fakes"
    node.environment |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]"}
    program(
        node.root / "bin" / "scontrol",
        'if [ "$2" = hostnames ]; then printf "localhost\\nlocalhost\\n"; else echo "KillWait = 7 sec"; fi',
    )
    program(node.root / "bin" / "srun", f'exec "{sys.executable}" "{fakes / "srun_program.py"}" "$@"')
    node.environment["FAKE_SRUN_RECORD"] = str(node.root / "record-{}.json")
    return node


def spec_of(root: Path, image: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "job_name": "bouchet-aa-1",
        "deployment": "aa",
        "model": "Org/Name",
        "names": ["bouchet-name"],
        "window": 4096,
        "gpus": 1,
        "nodes": 1,
        "env": {"OMP_NUM_THREADS": "1", "PYTHONPATH": "/own/plugins"},
        "root": str(root),
        "models_dir": "~/models",
        "image": str(image),
        "image_sha256": None,
        "vllm": "0.32.0",
        "apptainer": "apptainer",
        "idle_timeout_s": 0,
        "drain_s": 100,
    }


def program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
