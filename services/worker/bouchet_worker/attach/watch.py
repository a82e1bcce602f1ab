"""Keeps the records of attached servers true: asks each of them now and then, and decides. No job, no Slurm.

A server that goes away stays attached: its record says that it is not reachable, until it answers again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from bouchet_core.deployments import Deployment, Job, Phase
from bouchet_core.deployments.attached import AttachError, ServerUnreachableError
from bouchet_core.errors import RecordError
from bouchet_core.keys import job_key

from bouchet_worker.context import StartWork, WorkerContext, start_thread
from bouchet_worker.reconcile.decide import Decision, apply
from bouchet_worker.reconcile.smoke_runner import SmokeTestRunner

from .attach import window_of
from .probe import AttachedClient, NotAskedError, ServedModel, listed

log = logging.getLogger(__name__)

# between two checks: of one that answers, and of one that does not
READY_S, AWAY_S = 15.0, 4.0
# one check without an answer may be chance
FAILURES_BEFORE_AWAY = 2


@dataclass(frozen=True)
class ServerCheck:
    """What one check of a server found. problem: why it cannot be used; could_ask: whether anything was learned.

    failures: checks without an answer in a row, this one included.
    """

    models: tuple[ServedModel, ...] = ()
    problem: str = ""
    could_ask: bool = True
    is_definite: bool = False
    failures: int = 0


def decide_attached(record: Deployment, check: ServerCheck) -> Decision:
    """Return the change that a check asks for. Pure. A check that could not be made changes nothing."""
    attached, job = record.attached, record.job
    if attached is None or job is None or not record.is_live or not check.could_ask:
        return Decision()
    if check.problem:
        is_away = check.is_definite or check.failures >= FAILURES_BEFORE_AWAY or record.phase is not Phase.READY
        return Decision(Phase.STARTING, reason=check.problem, job_changes={"smoke": None}) if is_away else Decision()
    model = listed(check.models, attached.model)
    if model is None:
        names = ", ".join(one.id for one in check.models[:3])
        reason = f"the server has no {attached.model} any more, but {names}: detach it with `bouchet cancel`"
        return Decision(Phase.STARTING, reason=reason)
    window = window_of(model, attached.max_len)
    reason = job.smoke.summary if job.smoke is not None else ""
    return Decision(Phase.READY, reason=reason, job_changes={"window": window})


@dataclass
class _Watched:
    """The last check of one server, and when the next one is due (monotonic)."""

    due_at: float = 0.0
    failures: int = 0
    is_running: bool = False
    found: ServerCheck | None = None


@dataclass
class AttachedWatch:
    """Checks all attached servers, each in a thread of its own: a slow one delays nothing."""

    context: WorkerContext
    smoke_tests: SmokeTestRunner | None = None
    start: StartWork = start_thread
    clock: Callable[[], float] = time.monotonic
    _watched: dict[str, _Watched] = field(default_factory=dict)

    def step(self, records: Sequence[Deployment]) -> None:
        """Apply what the checks have found, and begin those that are due."""
        attached = [(record, job) for record in records if record.attached is not None for job in record.live_jobs]
        self._watched = {job.name: self._watched.get(job.name, _Watched()) for _, job in attached}
        for record, job in attached:
            watched = self._watched[job.name]
            if watched.found is not None:
                self._settle(record.id, watched.found)
                watched.found = None
            if not watched.is_running and self.clock() >= watched.due_at:
                watched.is_running = True
                self.start(self._begin_check(job, watched))
            self._test(record, job)

    def _begin_check(self, job: Job, watched: _Watched) -> Callable[[], None]:
        def run() -> None:
            try:
                found = check_server(self.context, job)
                watched.failures = watched.failures + 1 if found.problem else 0
                watched.found = replace(found, failures=watched.failures)
                watched.due_at = self.clock() + (AWAY_S if found.problem else READY_S)
            except Exception:
                # a bug must not keep the server from being checked again
                log.exception("attached server %s", job.name)
                watched.due_at = self.clock() + READY_S
            finally:
                watched.is_running = False

        return run

    def _test(self, record: Deployment, job: Job) -> None:
        """Run the smoke test once while the server is ready, where it is a vLLM: it knows all the endpoints."""
        attached = record.attached
        wanted = job.phase is Phase.READY and job.smoke is None and job.vllm_version is not None
        if self.smoke_tests is None or not wanted or attached is None or len(attached.dialects) < 2:
            return
        smoke, _ = self.smoke_tests.result_of(record, job)
        if smoke is not None:
            changes: Mapping[str, object] = {"smoke": smoke}
            self._change(record.id, lambda _: Decision(reason=smoke.summary, job_changes=changes))

    def _settle(self, deployment: str, check: ServerCheck) -> None:
        self._change(deployment, lambda old: decide_attached(old, check))

    def _change(self, deployment: str, decide: Callable[[Deployment], Decision]) -> None:
        """Decide on the newest version of the record until it is saved."""
        now = self.context.now()

        def change(old: Deployment) -> Deployment:
            return with_decision(old, decide(old), now)

        try:
            before = self.context.store.get(deployment)
            after = self.context.store.update(deployment, change)
        except RecordError as exc:
            log.warning("attached server %s: %s", deployment, exc)
            return
        if after.phase is not before.phase:
            log.info("deployment %s: %s -> %s %s", deployment, before.phase, after.phase, after.reason)


def with_decision(record: Deployment, decision: Decision, now: datetime) -> Deployment:
    """Return the record after the decision; a live one only."""
    return apply(record, decision, now) if record.is_live else record


def check_server(context: WorkerContext, job: Job) -> ServerCheck:
    """Ask a server for its models."""
    url = f"http://{context.slot_host}:{context.slot_base_port + job.slot}"
    try:
        with AttachedClient(url, job_key(context.serving_secret, job.name, job.sealed_key)) as server:
            return ServerCheck(server.models())
    except NotAskedError as exc:
        return ServerCheck(problem=str(exc), could_ask=False)
    except ServerUnreachableError as exc:
        return ServerCheck(problem=f"not reachable: {exc}", is_definite=exc.is_definite)
    except AttachError as exc:
        return ServerCheck(problem=f"not usable: {exc}", is_definite=True)
