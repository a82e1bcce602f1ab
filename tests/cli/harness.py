"""The command in tests: in this process, as a program, or on a terminal; and records moved as the worker moves them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bouchet_cli.__main__ import main
from bouchet_core.deployments import Deployment, Ending, Job, Phase, Placement
from bouchet_core.store import Store

from tests.fakes.chat_proxy import ChatProxy
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import ADMIN_KEY, KEY, RunningApi
from tests.waiting import wait_for

__all__ = ["ADMIN_KEY", "KEY", "FakeGateway"]

QWEN, ALIAS = "Qwen/Qwen3-32B", "bouchet-qwen3-32b"
LOG = "/data/bouchet/logs/7.log"
TO_QUEUED = (Phase.SUBMITTING, Phase.QUEUED)
TO_READY = (*TO_QUEUED, Phase.STARTING, Phase.READY)
NOTHING_LISTENS = "http://127.0.0.1:1"
EXIT_TIMEOUT_S = 60.0
# The terminal must belong to the session, so that Ctrl-C reaches the program as a signal. A test run in the background
# has SIGINT ignored, and programs inherit that; a terminal does not ignore it.
OWN_SESSION = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.setsid()
os.close(os.open(os.ttyname(0), os.O_RDWR))
os.execv(sys.argv[1], sys.argv[1:])
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Done:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


class _ReactingStream(io.StringIO):
    """Calls a function when a text has been written; each once, in their order."""

    def __init__(self, steps: list[tuple[str, Callable[[], object]]]) -> None:
        super().__init__()
        self._steps = steps

    def write(self, text: str) -> int:
        written = super().write(text)
        while self._steps and self._steps[0][0] in self.getvalue():
            self._steps.pop(0)[1]()
        return written


@dataclass(frozen=True)
class Bouchet:
    """The `bouchet` command with a running API and proxy."""

    api: RunningApi
    proxy: ChatProxy
    environment: Mapping[str, str]

    @property
    def store(self) -> Store:
        """The API's own store."""
        return self.api.store

    def __call__(self, *arguments: str, stdin: str = "", **extra: str) -> Done:
        """Run the command in this process, without a terminal: most of a process's time is the start of Python."""
        out, err = io.StringIO(), io.StringIO()
        before, sys.stdin = sys.stdin, io.StringIO(stdin)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(arguments, {**self.environment, **extra})
        finally:
            sys.stdin = before
        return Done(status, out.getvalue(), err.getvalue())

    def reacting(self, steps: Mapping[str, Callable[[], object]], *arguments: str) -> Done:
        """Run the command in this process, and call each step as soon as its text has been printed."""
        left = list(steps.items())
        out, err = _ReactingStream(left), _ReactingStream(left)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(arguments, self.environment)
        return Done(status, out.getvalue(), err.getvalue())

    def program(self, *arguments: str) -> list[str]:
        """Return the argv of the command as a program."""
        return [sys.executable, "-m", "bouchet_cli", *arguments]

    def process(self, *arguments: str, **extra: str) -> Done:
        """Run the command as a process."""
        done = subprocess.run(
            self.program(*arguments),
            env={**self.environment, **extra},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=EXIT_TIMEOUT_S,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def terminal(self, *arguments: str, **extra: str) -> Iterator[Terminal]:
        """Run the command as a process on a terminal of 120 columns."""
        master, slave = pty.openpty()
        environment = {**self.environment, "TERM": "xterm", "COLUMNS": "120", **extra}
        argv = [sys.executable, "-I", "-S", "-c", OWN_SESSION, *self.program(*arguments)]
        with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
            os.close(slave)
            try:
                yield Terminal(process, master)
            finally:
                process.kill()
                os.close(master)

    def launch(self, *arguments: str) -> str:
        """Launch a model and return the deployment's id."""
        done = self("launch", *(arguments or (QWEN,)), "--no-wait", "--json")
        assert done.status == 0, done.err
        return str(json.loads(done.out)["id"])

    def launch_ready(self, *arguments: str) -> str:
        """Launch a model, make it ready, and return the deployment's id."""
        identity = self.launch(*arguments)
        advance(self.store, identity, *TO_READY)
        return identity


@dataclass
class Terminal:
    """A program whose stdin, stdout and stderr are one terminal."""

    process: subprocess.Popen[bytes]
    master: int
    seen: str = ""

    def until(self, text: str) -> None:
        """Read until the text has come, after the text of the last call."""
        explain = lambda: f"expected {text!r} in {self.seen[-500:]!r}"  # noqa: E731
        wait_for(lambda: text in self._read(), EXIT_TIMEOUT_S, explain=explain)
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        """Type keys, also control characters."""
        os.write(self.master, text.encode())

    def rest(self) -> tuple[int, str]:
        """Return the exit status, and the output after the text of the last call, with escape sequences."""
        status = self.process.wait(EXIT_TIMEOUT_S)
        while select.select([self.master], [], [], 0.1)[0]:
            try:
                self.seen += os.read(self.master, 65536).decode()
            except OSError:  # Linux's end of file on a terminal
                break
        return status, self.seen

    def _read(self) -> str:
        if select.select([self.master], [], [], 0.05)[0]:
            # Linux's end of file on a terminal
            with contextlib.suppress(OSError):
                self.seen += ESCAPES.sub("", os.read(self.master, 65536).decode())
        return self.seen


def advance(store: Store, identity: str, *phases: Phase, window: int = 40960) -> Deployment:
    """Move a deployment through these phases as the worker does, with a job on a node."""
    now = datetime.now(UTC)
    for phase in phases:
        store.update(identity, lambda record, phase=phase: _moved(record, phase, now, window))  # type: ignore[misc]
    return store.get(identity)


def end(store: Store, identity: str, ending: Ending = Ending.FAILED, reason: str = "out of memory") -> None:
    """End a deployment."""
    now = datetime.now(UTC)
    store.update(identity, lambda record: record.moved(Phase.ENDED, now, reason=reason, ending=ending))


def change_job(store: Store, identity: str, **fields: object) -> None:
    """Change fields of a deployment's job."""

    def changed(record: Deployment) -> Deployment:
        assert record.job is not None
        return record.with_job(record.job.model_copy(update=fields), datetime.now(UTC))

    store.update(identity, changed)


def script(path: os.PathLike[str], text: str) -> None:
    """Write an executable shell script."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o755)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"#!/bin/sh\n{text}\n")


def one_line_error(done: Done, status: int) -> bool:
    """Return whether the command failed with this status, one error line and no output."""
    return (done.status, done.out) == (status, "") and done.err.startswith("error: ") and done.err.count("\n") == 1


def table_rows(output: str) -> dict[str, Sequence[str]]:
    """Return the cells of each line of a table by the first cell."""
    return {line.split()[0]: line.split() for line in output.splitlines() if line.strip()}


def _moved(record: Deployment, phase: Phase, now: datetime, window: int) -> Deployment:
    if record.job is None:
        placement = Placement(
            partition="gpu_h200", gpus=2, gpu_type="h200", nodes=1, cpus=12, memory_gib=480, walltime_s=3600
        )
        job = Job(name=f"bouchet-{record.id}-1", slot=0, slurm_id=7, placement=placement, log=LOG)
        record = record.model_copy(update={"jobs": (job,)})
    assert record.job is not None
    update: dict[str, object] = {"start_estimate": now + timedelta(minutes=40, seconds=30)}
    if phase is Phase.STARTING:
        update = {"node": "node12", "port": 18000, "progress": "weights loaded: 3 of 9"}
    if phase is Phase.READY:
        update = {"window": window}
    record = record.model_copy(update={"jobs": (record.job.model_copy(update=update),)})
    return record.moved(phase, now, reason="waits for GPUs" if phase is Phase.QUEUED else "")
