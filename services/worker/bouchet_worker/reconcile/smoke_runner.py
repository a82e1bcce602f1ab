"""One smoke test a start, each in a thread of its own: the loop looks at what came of it and never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import pairwise

from bouchet_core.deployments import Deployment, Job, Phase
from bouchet_core.provenance import SmokeCheck, SmokeTest

from .health import SlotProbe
from .smoke_test import Lost, Promise, smoke_test

log = logging.getLogger(__name__)

# a deployment is not called ready before its test is over, but never waits longer for it
PATIENCE_S = 20.0
TRIES = 3

Start = Callable[[Callable[[], None]], None]


def in_a_thread(work: Callable[[], None]) -> None:
    """Does it beside; it dies with the process, and the next worker does it again."""
    threading.Thread(target=work, name="smoke", daemon=True).start()


@dataclass
class _Run:
    """The test of one start. result: None while it is under way, or was cut off by a lost tunnel."""

    began: float
    tries: int = 0
    under_way: bool = False
    result: SmokeTest | None = None


@dataclass
class Smokes:
    """All tests under way. start: how one is begun; synchronous in tests of the loop."""

    probe: SlotProbe
    start: Start = in_a_thread
    over: threading.Event = field(default_factory=threading.Event)
    _runs: dict[tuple[object, ...], _Run] = field(default_factory=dict)

    def look(self, record: Deployment, job: Job) -> tuple[SmokeTest | None, bool]:
        """What came of the test of that start, begun by the first look; and whether to wait for it any longer."""
        run = self._runs.setdefault(_start_of(job), _Run(time.monotonic()))
        if run.result is None and not run.under_way:
            run.under_way, run.tries = True, run.tries + 1
            self.start(lambda: self._do(run, record, job))
        waits = run.result is None and time.monotonic() - run.began < PATIENCE_S
        return run.result, waits

    @property
    def under_way(self) -> bool:
        """Whether any test is."""
        return any(run.under_way for run in list(self._runs.values()))

    def forget_all_but(self, jobs: Collection[str]) -> None:
        """Forgets the tests of all other jobs."""
        self._runs = {start: run for start, run in self._runs.items() if start[0] in jobs}

    def _do(self, run: _Run, record: Deployment, job: Job) -> None:
        try:
            with self.probe.client(job) as http:
                run.result = smoke_test(http, promise_of(record, job), lambda: self.probe.is_there(job))
            log.info("deployment %s: smoke test %s", record.id, run.result.words or "passed")
        except Lost as exc:
            if run.tries >= TRIES:
                run.result = _never(f"the way to it was lost {TRIES} times: {exc}")
            log.info("deployment %s: smoke test cut off: %s", record.id, exc)
        except Exception as exc:
            # a bug here must not keep a healthy model from being served
            log.exception("deployment %s: smoke test", record.id)
            run.result = _never(f"the test itself failed ({type(exc).__name__})")
        finally:
            run.under_way = False
            self.over.set()


def promise_of(record: Deployment, job: Job) -> Promise:
    """What the record says the model would be. The command line tells the window even where vLLM has told another."""
    traits = record.traits
    asked = _word_after(job.command, "--max-model-len")
    window = int(asked) if asked is not None and asked.isdigit() else None
    return Promise(record.alias, window, traits.thinking, traits.tool_parser, traits.reasoning_parser)


def _word_after(words: tuple[str, ...], option: str) -> str | None:
    """The last one counts, as for vLLM."""
    found = [after for word, after in pairwise(words) if word == option]
    return found[-1] if found else None


def _start_of(job: Job) -> tuple[object, ...]:
    return job.name, job.node, job.port, job.socket, job.since.get(Phase.STARTING)


def _never(why: str) -> SmokeTest:
    check = SmokeCheck(message=why)
    return SmokeTest(chat=check, stream=check, tools=check, count=check, window=check, thinking=check)
