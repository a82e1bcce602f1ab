"""Runs one smoke test per start of vLLM, each in its own thread: the loop reads results and never waits for them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise

from bouchet_core.deployments import Deployment, Job, Phase
from bouchet_core.provenance import SmokeCheck, SmokeTest

from bouchet_worker.context import StartWork, start_thread

from .health import SlotProbe
from .smoke_test import ExpectedModel, ServerGoneError, run_smoke_test

log = logging.getLogger(__name__)

# how long a deployment stays `starting` for its smoke test
READY_DELAY_MAX_S = 20.0
TRIES = 3


@dataclass
class _Run:
    """The test of one start. result: None while it runs, or after it was cut off by a lost tunnel."""

    began: float
    tries: int = 0
    is_running: bool = False
    result: SmokeTest | None = None


@dataclass
class SmokeTestRunner:
    """All running smoke tests. finished: set when one of them ends."""

    probe: SlotProbe
    start: StartWork = start_thread
    finished: threading.Event = field(default_factory=threading.Event)
    _runs: dict[tuple[object, ...], _Run] = field(default_factory=dict)

    def result_of(self, record: Deployment, job: Job) -> tuple[SmokeTest | None, bool]:
        """Return the result of the test of this start, and whether to wait for it. The first call starts the test."""
        run = self._runs.setdefault(_start_of(job), _Run(time.monotonic()))
        if run.result is None and not run.is_running:
            run.is_running, run.tries = True, run.tries + 1
            self.start(lambda: self._test(run, record, job))
        pending = run.result is None and time.monotonic() - run.began < READY_DELAY_MAX_S
        return run.result, pending

    @property
    def is_running(self) -> bool:
        """Whether any test is running."""
        return any(run.is_running for run in list(self._runs.values()))

    def keep_only(self, jobs: Collection[str]) -> None:
        """Forget the tests of all other jobs. jobs: job names."""
        self._runs = {start: run for start, run in self._runs.items() if start[0] in jobs}

    def _test(self, run: _Run, record: Deployment, job: Job) -> None:
        try:
            with self.probe.client(job) as http:
                run.result = run_smoke_test(http, expected_model(record, job), lambda: self.probe.is_healthy(job))
            log.info("deployment %s: smoke test %s", record.id, run.result.summary or "passed")
        except ServerGoneError as exc:
            if run.tries >= TRIES:
                run.result = _not_tried(f"the connection to vLLM was lost {TRIES} times: {exc}")
            log.info("deployment %s: smoke test interrupted: %s", record.id, exc)
        except Exception as exc:
            # a bug here must not keep a healthy model from being served
            log.exception("deployment %s: smoke test", record.id)
            run.result = _not_tried(f"the smoke test itself failed ({type(exc).__name__})")
        finally:
            run.is_running = False
            self.finished.set()


def expected_model(record: Deployment, job: Job) -> ExpectedModel:
    """Return what the record expects of the model. The window is the one on vLLM's command line, if it has one."""
    traits = record.traits
    max_len = _option_value(job.command, "--max-model-len")
    window = int(max_len) if max_len is not None and max_len.isdigit() else None
    return ExpectedModel(record.served_as, window, traits.thinking, traits.tool_parser, traits.reasoning_parser)


def _option_value(argv: tuple[str, ...], option: str) -> str | None:
    """Return the last value of the option, as vLLM does."""
    values = [value for argument, value in pairwise(argv) if argument == option]
    return values[-1] if values else None


def _start_of(job: Job) -> tuple[object, ...]:
    return job.name, job.node, job.port, job.socket, job.since.get(Phase.STARTING)


def _not_tried(reason: str) -> SmokeTest:
    check = SmokeCheck(message=reason)
    return SmokeTest(chat=check, stream=check, tools=check, count=check, window=check, thinking=check)
