"""A compute node for one GPU job: its files, fake programs on PATH, and the real batch script under bash."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from bouchet_core.config.job_scripts import load_scripts

from tests.waiting import wait_for

REPOSITORY = Path(__file__).parents[2]
REMOTE = REPOSITORY / "remote"
FAKES = REPOSITORY / "tests" / "fakes"
KEY = "k" * 64
JOB_ID = "77"
JOB_NAME = "bouchet-aa-1"
WAIT_S = 60.0


@cache
def find_python_36() -> str | None:
    """Return a Python 3.6, the oldest that clusters run; None on a machine without one."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for candidate in (*map(str, sorted(home.glob("versions/3.6*/bin/python3"))), shutil.which("python3.6")):
        code = "import sys; assert sys.version_info[:2] == (3, 6)"
        if candidate and subprocess.run([candidate, "-c", code], stderr=subprocess.DEVNULL).returncode == 0:
            return candidate
    return None


def stage_flat() -> Path:
    """Copy all job scripts side by side into one folder, as they are staged on a cluster."""
    folder = Path(tempfile.mkdtemp(prefix="bouchet-scripts-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, content in load_scripts(REMOTE).files.items():
        (folder / name).write_bytes(content)
    return folder


SCRIPTS = stage_flat()
# the oldest Python found runs everything; the newer one runs a few jobs from end to end
OLDEST = find_python_36() or sys.executable
BOTH = [OLDEST, *(pytest.param(python, marks=pytest.mark.slow) for python in {sys.executable} - {OLDEST})]


@dataclass
class ComputeNode:
    """Where one job runs. Change `spec` and the files before `start`."""

    root: Path
    path: str
    spec: dict[str, Any]
    mode: str = "serve"
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def job_dir(self) -> Path:
        return self.root / "jobs" / JOB_NAME

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def connection_file(self) -> Path:
        return self.root / "logs" / f"connection-{JOB_ID}.json"

    @property
    def heartbeat_file(self) -> Path:
        return self.root / "logs" / f"heartbeat-{JOB_ID}.json"

    @property
    def end_file(self) -> Path:
        return self.root / "logs" / f"end-{JOB_ID}.json"

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
            "BOUCHET_KEEPALIVE_S": "0.5",
            # makes a newer bash behave like 4.4 where it has changed since
            "BASH_COMPAT": "4.4",
            **self.environment,
        }
        argv = ["bash", str(SCRIPTS / "vllm-serve.sbatch"), str(self.job_dir), str(SCRIPTS)]
        with (self.root / "logs" / f"{JOB_ID}.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, env=environment, cwd=self.root, stdout=log, stderr=log, start_new_session=True
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

    def stop(self) -> dict[str, Any]:
        """Cancel the job as Slurm does; its end record."""
        self.signal(signal.SIGTERM)
        assert self.wait() == 0
        return self.end()

    def wait_for(self, probe: Callable[[], Any]) -> Any:
        return wait_for(probe, WAIT_S, explain=self.log)

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "record.json").read_text()))

    def end(self) -> dict[str, Any]:
        return dict(json.loads(self.end_file.read_text()))

    def connection(self) -> dict[str, Any]:
        """Wait until the server listens; the connection file."""
        self.wait_for(lambda: self.connection_file.exists() and (self.root / "record.json").exists())
        document = dict(json.loads(self.connection_file.read_text()))
        self.wait_for(lambda: listens(document["port"]))
        return document

    def healthy_heartbeat(self) -> dict[str, Any]:
        """Wait until idle_watch.sh has found the server healthy; the heartbeat file."""

        def read() -> dict[str, Any] | None:
            document = json.loads(self.heartbeat_file.read_text()) if self.heartbeat_file.exists() else {}
            return dict(document) if document.get("state") == "ok" else None

        return dict(self.wait_for(read))

    def refuse(self) -> str:
        """Run a job that must be refused before Apptainer starts; the sentence of its end record."""
        assert self.run() == 1
        assert not (self.root / "record.json").exists(), "apptainer ran"
        assert self.end()["kind"] == "refused" and self.left_behind() == []
        return str(self.end()["sentence"])

    def left_behind(self) -> list[str]:
        """Scratch files of the job, and processes that still name its folder; killed ones may take a moment to end."""
        with suppress(AssertionError):
            wait_for(lambda: not self.processes(), WAIT_S, pause_s=0.05)
        return [*map(str, self.temporary.iterdir()), *self.processes().values()]

    def processes(self) -> dict[int, str]:
        """Command lines of all processes that name the job's folder, by pid."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and entry.name != str(os.getpid()):
                with suppress(OSError):
                    command = (entry / "cmdline").read_bytes().decode(errors="replace")
                    if str(self.root) in command:
                        found[int(entry.name)] = command.replace("\0", " ")
        return found

    def vllm_pid(self) -> int:
        """Return the pid of the fake vLLM server, the youngest process of the fake Apptainer."""
        return max(pid for pid, command in self.processes().items() if "apptainer_program" in command)


def request_status(port: int, path: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return int(response.status)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def running(node: ComputeNode, start: bool = True) -> Iterator[ComputeNode]:
    """Run the node's job, and kill afterwards what is left of it."""
    try:
        if start:
            node.start()
        yield node
    finally:
        kill_job(node)


def kill_job(node: ComputeNode) -> None:
    if node.process is not None and node.process.poll() is None:
        os.killpg(node.process.pid, signal.SIGKILL)
        node.process.wait()
    # what the script started has process groups of its own
    for pid in node.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def make_compute_node(tmp_path: Path, python: str) -> ComputeNode:
    root = tmp_path / "it's a $root"
    for folder in (f"jobs/{JOB_NAME}", "logs", "tmp", "bin", "images", "models/Org/Name", "cache"):
        (root / folder).mkdir(parents=True)
    write_program(root / "bin" / "python3", f'exec "{python}" "$@"')
    # like Apptainer, it stays the parent of what it runs
    write_program(root / "bin" / "apptainer", f'"{sys.executable}" "{FAKES / "apptainer_program.py"}" "$@"\nexit $?')
    write_program(root / "bin" / "scontrol", 'echo "KillWait                = 7 sec"')
    write_program(root / "bin" / "nvidia-smi", 'echo "NVIDIA H200, 580.95.05"')
    image = write_image(root / "images" / "pin.sif")
    (root / "models/Org/Name/config.json").write_text("{}")
    node = ComputeNode(root, f"{root}/bin:/usr/bin:/bin", make_spec(root, image))
    (node.job_dir / "vllm.args").write_text('--max-model-len\n4096\n--x\na\'; echo $(nasty) "b" *\n')
    (node.job_dir / "setup.sh").write_text("")
    (node.job_dir / "key").write_text(f"{KEY}\n")
    (node.job_dir / "key").chmod(0o600)
    return node


def add_second_node(node: ComputeNode) -> ComputeNode:
    """Make it the first of two nodes; a fake `srun` on the same machine runs the second one."""
    node.environment |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]"}
    write_program(
        node.root / "bin" / "scontrol",
        'if [ "$2" = hostnames ]; then printf "localhost\\nlocalhost\\n"; else echo "KillWait = 7 sec"; fi',
    )
    write_program(node.root / "bin" / "srun", f'exec "{sys.executable}" "{FAKES / "srun_program.py"}" "$@"')
    node.environment["FAKE_SRUN_RECORD"] = str(node.root / "record-{}.json")
    return node


def make_spec(root: Path, image: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "job_name": JOB_NAME,
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


def write_image(path: Path, content: bytes = b"an image") -> Path:
    """Write an image with its recorded hash."""
    path.write_bytes(content)
    Path(f"{path}.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    return path


def write_program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
