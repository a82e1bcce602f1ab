"""The policies that are compared: the project's own `plan`, and what people and other systems do."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from bouchet_core.deployments import Phase
from bouchet_core.policy import Policy, Replicas, parse_hours
from bouchet_worker.service.estimates import QueueWait, answer_estimate, queue_estimate, startup_estimate
from bouchet_worker.service.inputs import Action, ActionKind, JobEnd, JobView, RecordView, ServiceLimits, ServiceLoad
from bouchet_worker.service.plan import plan

from .world import CAPACITY, SimJob, Strategy, World

ZONE = "America/New_York"
# a Monday's midnight there
MONDAY = datetime(2026, 11, 2, 5, tzinfo=UTC)
PARTITION = "gpu_h200"
MOST_GPUS, MOST_RUNNING = 16, 6
WALLTIME_S = 6 * 3600.0
IDLE_S = 45 * 60.0
MAX_OUTPUT, TOKENS_PER_S = 32_000, 80.0


class PlannedStrategy(Strategy):
    """Carries out what the project's `plan` returns."""

    def __init__(self, name: str, policy: Policy, *, idle_s: float = IDLE_S, gpus: int = 1) -> None:
        self.name, self._policy, self._idle_s, self._gpus = name, policy, idle_s, gpus
        self._parked_at: float | None = None if policy.renews else 0.0
        self._last_end: JobEnd | None = None
        self.log: list[tuple[float, Action]] = []

    def tick(self, world: World) -> None:
        """Plan until nothing more is to be done at this moment."""
        for _ in range(8):
            actions = plan(self._record(world), self._load(world), self._limits(world), _time(world.now))
            done = [self._carry_out(world, action) for action in actions]
            if not any(done):
                return

    def job_ended(self, world: World, job: SimJob) -> None:
        """Remember the end for the next reason."""
        self._last_end = JobEnd(_time(world.now), f"{job.name} reached its walltime")

    def _carry_out(self, world: World, action: Action) -> bool:
        jobs = {job.name: job for job in world.jobs}
        if action.kind is not ActionKind.NOTHING and action.kind is not ActionKind.WARN:
            self.log.append((world.now, action))
        if action.kind in (ActionKind.SUBMIT, ActionKind.WAKE):
            begin = None if action.begin is None else (action.begin - MONDAY).total_seconds()
            world.submit(action.walltime_s or WALLTIME_S, self._gpus, begin, action.replaces)
            self._parked_at = None
        elif action.kind is ActionKind.RETIRE:
            world.end_job(jobs[action.job or ""])
        elif action.kind in (ActionKind.HAND_OVER, ActionKind.TAKE_BACK):
            world.leave(jobs[action.job or ""], action.kind is ActionKind.HAND_OVER)
        elif action.kind in (ActionKind.PARK, ActionKind.END):
            for job in list(world.jobs):
                world.end_job(job)
            self._parked_at = world.now
        else:
            return False
        return True

    def _record(self, world: World) -> RecordView:
        parked = None if self._parked_at is None else _time(self._parked_at)
        jobs = tuple(_view(job) for job in world.jobs)
        return RecordView(
            "aa", "coder", self._policy, jobs, self._gpus, WALLTIME_S, self._idle_s, last_end=self._last_end,
            parked_at=parked,
        )  # fmt: skip

    def _load(self, world: World) -> ServiceLoad:
        accepts = any(job.accepts for job in world.jobs)
        busiest = max((len(job.streams) for job in world.jobs), default=0)
        return ServiceLoad(
            waiting=world.waiting,
            kv_use=busiest / CAPACITY,
            high_since=_maybe(world.high_since),
            backlog_s=None if world.high_since is not None else 0.0,
            held=0 if accepts else len(world.held),
            demand_at=_maybe(world.demand_at),
            last_request_end=_maybe(world.last_request_end),
        )

    def _limits(self, world: World) -> ServiceLimits:
        now = _time(world.now)
        waits = [QueueWait(PARTITION, self._gpus, waited) for waited in world.queue_waits[-20:]]
        running = [job for job in world.jobs if job.start is not None]
        return ServiceLimits(
            now,
            max_gpus=MOST_GPUS,
            gpus_in_use=sum(job.gpus for job in running),
            max_running=MOST_RUNNING,
            running=len(running),
            queue_s=queue_estimate(PARTITION, self._gpus, waits, now=now).safe_s,
            startup_s=startup_estimate(world.startups[-20:]).safe_s,
            longest_answer_s=answer_estimate(MAX_OUTPUT, [TOKENS_PER_S]).safe_s,
        )


class ByHand(Strategy):
    """A person starts a job when a request finds none, and notices after a while that it has ended."""

    def __init__(self, name: str = "by hand", idle_s: float = 0.0, seed: int = 1) -> None:
        self.name, self._idle_s = name, idle_s
        self._rng = random.Random(f"by hand {seed}")
        self._notices_at: float | None = None

    def tick(self, world: World) -> None:
        """Submit when the person has noticed; end an idle job where the job has an idle timeout."""
        for job in list(world.jobs):
            idle_since = max(job.last_request_end or 0.0, job.ready or world.now)
            if self._idle_s and not job.streams and world.now - idle_since >= self._idle_s:
                world.end_job(job)
        if world.jobs or not world.held:
            self._notices_at = None
        elif self._notices_at is None:
            self._notices_at = world.now + self._rng.uniform(30.0, 180.0)
        elif world.now >= self._notices_at:
            world.submit(WALLTIME_S, 1)


class FixedChain(Strategy):
    """A successor a fixed time before each end; when it is ready, the old job is cancelled."""

    name = "fixed chain"

    def __init__(self, lead_s: float = 1800.0) -> None:
        self._lead_s = lead_s

    def tick(self, world: World) -> None:
        """Submit the first job and each successor; cancel a job whose successor is ready."""
        ready = [job for job in world.jobs if job.accepts]
        for job in ready[:-1]:
            world.end_job(job)
        last = world.jobs[-1] if world.jobs else None
        end = None if last is None or last.start is None else last.start + last.walltime_s
        if last is None or (end is not None and last.ready is not None and world.now >= end - self._lead_s):
            world.submit(WALLTIME_S, 1)


def strategies(people: int) -> list[Strategy]:
    """Return the policies of the comparison, the project's own first."""
    replicas = Replicas(low=1, high=1 if people < 20 else 4)
    hours = parse_hours("mon-fri 08:30-18:00", ZONE)
    return [
        PlannedStrategy(
            "hours and on demand", Policy(hours=hours, on_demand=True, replicas=replicas, zone=ZONE)
        ),
        PlannedStrategy("on demand", Policy(on_demand=True, replicas=replicas, zone=ZONE)),
        PlannedStrategy("always on", Policy(keep="forever", replicas=replicas, zone=ZONE), idle_s=0.0),
        ByHand(),
        ByHand("idle end without wake", IDLE_S),
        FixedChain(),
    ]  # fmt: skip


def _view(job: SimJob) -> JobView:
    phase = Phase.QUEUED if job.start is None else Phase.STARTING if job.ready is None else Phase.READY
    return JobView(
        job.name,
        phase,
        job.gpus,
        _time(job.submitted),
        started_at=_maybe(job.start),
        ends_at=None if job.start is None else _time(job.start + job.walltime_s),
        ready_at=_maybe(job.ready),
        begin_at=_maybe(job.begin),
        open_streams=len(job.streams),
        last_request_end=_maybe(job.last_request_end),
        leaving_since=_maybe(job.leaving_since),
        replaces=job.replaces,
    )


def _time(seconds: float) -> datetime:
    return MONDAY + timedelta(seconds=seconds)


def _maybe(seconds: float | None) -> datetime | None:
    return None if seconds is None else _time(seconds)
