"""The command as a program, against a running API."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bouchet_cli.__main__ import main
from bouchet_core.deployments import Deployment, Ending, Job, Phase, Placement
from bouchet_core.store import Store

from tests.fakes.chat_proxy import ChatProxy
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import KEY, RunningApi, emptied, running_with_its_own

FOREIGN = ("ANTHROPIC_", "CLAUDE_", "BOUCHET_")
LOG = "/data/bouchet/logs/7.log"


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


class _Heard(io.StringIO):
    """Does something when it is told certain words; once, and in their order."""

    def __init__(self, steps: Mapping[str, Callable[[], object]]) -> None:
        super().__init__()
        self._left = list(steps.items())

    def write(self, text: str) -> int:
        """What a program says."""
        written = super().write(text)
        while self._left and self._left[0][0] in self.getvalue():
            self._left.pop(0)[1]()
        return written


@dataclass(frozen=True)
class Bouchet:
    """Runs `bouchet` as a person would, without a terminal."""

    api: RunningApi
    proxy: ChatProxy
    environment: Mapping[str, str]

    @property
    def store(self) -> Store:
        """The API's own store."""
        return self.api.state.store

    def program(self, *arguments: str) -> list[str]:
        """The argv."""
        return [sys.executable, "-m", "bouchet_cli", *arguments]

    def __call__(self, *arguments: str, stdin: str = "", **extra: str) -> Done:
        """The command in this process: most of its own time is spent starting Python."""
        out, err = io.StringIO(), io.StringIO()
        before, sys.stdin = sys.stdin, io.StringIO(stdin)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(arguments, {**self.environment, **extra})
        finally:
            sys.stdin = before
        return Done(status, out.getvalue(), err.getvalue())

    def reacting(self, steps: Mapping[str, Callable[[], object]], *arguments: str) -> Done:
        """The command in this process; when it has said one of the words, what belongs to them is done at once."""
        out, err = io.StringIO(), _Heard(steps)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(arguments, self.environment)
        return Done(status, out.getvalue(), err.getvalue())

    def whole(self, *arguments: str, stdin: str = "", **extra: str) -> Done:
        """The command as a program of its own."""
        done = subprocess.run(
            self.program(*arguments),
            env={**self.environment, **extra},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningApi, ChatProxy]]:
    with running_with_its_own(tmp_path_factory.mktemp("stack")) as api, ChatProxy() as proxy:
        yield api, proxy


@pytest.fixture
def bouchet(stack: tuple[RunningApi, ChatProxy], tmp_path: Path) -> Bouchet:
    api, proxy = emptied(stack[0]), stack[1]
    proxy.reset()
    port = api.url.rpartition(":")[2]
    env_file = tmp_path / ".env"
    env_file.write_text(f"# made by a test\nBOUCHET_API_KEY='{KEY}'\nAPI_PORT={port}\nPROXY_PORT={proxy.port}\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    inherited.pop("COLUMNS", None)
    return Bouchet(api, proxy, {**inherited, "BOUCHET_ENV_FILE": str(env_file), "HOME": str(tmp_path)})


@pytest.fixture
def gateway(bouchet: Bouchet) -> FakeGateway:
    return bouchet.api.gateway


def advance(store: Store, identity: str, *phases: Phase, window: int = 40960) -> Deployment:
    """Moves a record through these phases, as the worker would, with a job that runs on a node."""
    now = datetime.now(UTC)
    for phase in phases:
        store.update(identity, lambda d, phase=phase: _moved(d, phase, now, window))  # type: ignore[misc]
    return store.get(identity)


def end(store: Store, identity: str, ending: Ending = Ending.FAILED, reason: str = "out of memory") -> None:
    """Ends a record."""
    now = datetime.now(UTC)
    store.update(identity, lambda d: d.moved(Phase.ENDED, now, reason=reason, ending=ending))


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
