"""`plan` step after step: whatever happens to jobs, people, limits and clocks, it comes to rest and keeps a promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.policy import Policy, Replicas, parse_hours
from bouchet_core.policy.weekly import Span
from bouchet_worker.service.inputs import (
    Action,
    ActionKind,
    BudgetUse,
    JobEnd,
    JobView,
    RecordView,
    ServiceLimits,
    ServiceLoad,
)
from bouchet_worker.service.plan import plan
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.service.views import LIMITS, NOW, OFFICE, YALE, ahead

STEP_S = 6
# steps in which nothing happens but time, and the submissions that one change of mind may take
QUIET_STEPS, MOST_SUBMISSIONS = 40, 2
JUMP = timedelta(hours=9)

ALWAYS = parse_hours("daily 0-24", YALE)
SUNDAY_NIGHT = parse_hours("sun 2-3", YALE)
POLICIES = (
    Policy(keep="forever", zone=YALE),
    Policy(keep=NOW + timedelta(hours=20), zone=YALE),
    Policy(on_demand=True, zone=YALE),
    Policy(keep="forever", replicas=Replicas(low=1, high=3), zone=YALE),
    Policy(keep="forever", replicas=Replicas(low=2, high=2), zone=YALE),
    Policy(keep="forever", begin=NOW + timedelta(hours=5), zone=YALE),
    OFFICE,
    Policy(hours=OFFICE.hours, on_demand=True, zone=YALE),
    Policy(hours=ALWAYS, zone=YALE),
    Policy(hours=SUNDAY_NIGHT, on_demand=True, zone=YALE),
    Policy(),
)


@dataclass
class World:
    """One deployment, its jobs, and what surrounds them."""

    policy: Policy
    now: datetime = NOW
    jobs: list[JobView] = field(default_factory=list)
    limits: ServiceLimits = LIMITS
    load: ServiceLoad = field(default_factory=ServiceLoad)
    parked_at: datetime | None = None
    last_end: JobEnd | None = None
    failed: int = 0
    paused: str = ""
    is_over: bool = False
    done: Counter[ActionKind] = field(default_factory=Counter)

    def step(self, seconds: float = STEP_S) -> tuple[Action, ...]:
        """Let time pass, end the jobs whose walltime is over, plan, and carry out."""
        self.now += timedelta(seconds=seconds)
        for job in [job for job in self.jobs if job.ends_at is not None and job.ends_at <= self.now]:
            self.lose(job, "its walltime was over")
        if self.is_over:
            return ()
        view = RecordView(
            "aa", "coder", self.policy, tuple(self.jobs), failed_starts=self.failed, last_end=self.last_end,
            paused=self.paused, parked_at=self.parked_at, warned_for=self.now,
        )  # fmt: skip
        actions = plan(view, self.load, replace(self.limits, observed_at=self.now), self.now)
        for action in actions:
            self.done[action.kind] += 1
            self._carry_out(action)
        return actions

    def lose(self, job: JobView, reason: str) -> None:
        """Let a job end that its policy has not ended."""
        self.jobs.remove(job)
        self.last_end = JobEnd(self.now, reason)
        self.failed = self.failed + 1 if job.is_coming else 0

    def change(self, job: JobView, **fields: object) -> None:
        self.jobs[self.jobs.index(job)] = replace(job, **fields)  # type: ignore[arg-type]

    def _carry_out(self, action: Action) -> None:
        named = [job for job in self.jobs if job.name == action.job]
        match action.kind:
            case ActionKind.SUBMIT | ActionKind.WAKE:
                assert not any(job.is_coming for job in self.jobs), "one is on its way already"
                name = f"job-{self.done[ActionKind.SUBMIT] + self.done[ActionKind.WAKE]}"
                job = JobView(name, Phase.QUEUED, 1, self.now, begin_at=action.begin, replaces=action.replaces)
                self.jobs.append(job)
                if action.begin is None or action.begin <= self.now:
                    self.parked_at = None
            case ActionKind.RETIRE:
                assert [job.open_streams for job in named] == [0], "an answer is cut"
                self.jobs.remove(named[0])
            case ActionKind.HAND_OVER | ActionKind.TAKE_BACK:
                self.change(named[0], leaving_since=self.now if action.kind is ActionKind.HAND_OVER else None)
            case ActionKind.PARK | ActionKind.END:
                assert not any(job.open_streams for job in self.jobs), "an answer is cut"
                self.jobs.clear()
                self.parked_at, self.is_over = self.now, action.kind is ActionKind.END
            case ActionKind.PAUSE:
                self.paused = action.reason
            case _:
                pass

    def is_in_maintenance(self) -> bool:
        return any(window.contains(self.now) for window in self.limits.maintenance)


def first(world: World, phase: Phase, act: Callable[[JobView], None]) -> None:
    """Let something happen to the oldest job in a phase, if there is one."""
    for job in [job for job in world.jobs if job.phase is phase][:1]:
        act(job)


def start(world: World) -> None:
    def run(job: JobView) -> None:
        if (job.begin_at is None or job.begin_at <= world.now) and not world.is_in_maintenance():
            ends_at = world.now + timedelta(hours=6)
            world.change(job, phase=Phase.STARTING, started_at=world.now, ends_at=ends_at)

    first(world, Phase.QUEUED, run)


def become_ready(world: World) -> None:
    first(world, Phase.STARTING, lambda job: world.change(job, phase=Phase.READY, ready_at=world.now))
    world.failed = 0


def requeue(world: World) -> None:
    fields = {"started_at": None, "ends_at": None, "ready_at": None, "open_streams": 0}
    first(world, Phase.READY, lambda job: world.change(job, phase=Phase.QUEUED, **fields))


def open_stream(world: World) -> None:
    def run(job: JobView) -> None:
        if not job.is_leaving:
            world.change(job, open_streams=1)

    first(world, Phase.READY, run)


def close_streams(world: World) -> None:
    for job in list(world.jobs):
        world.change(job, open_streams=0, last_request_end=world.now)


def ask(world: World) -> None:
    world.load = replace(world.load, held=1, demand_at=world.now)


def give_up(world: World) -> None:
    world.load = replace(world.load, held=0)


def announce_maintenance(world: World) -> None:
    hours = timedelta(hours=1)
    world.limits = replace(world.limits, maintenance=[Span(world.now + hours / 2, world.now + 10 * hours)])


def call_off_maintenance(world: World) -> None:
    world.limits = replace(world.limits, maintenance=())


def use_budget_up(world: World) -> None:
    span = Span(world.now - timedelta(days=1), world.now + timedelta(days=1))
    world.limits = replace(world.limits, budgets=[BudgetUse(40, 40, span, text="40 GPU hours a week")])


def begin_budget_again(world: World) -> None:
    world.limits = replace(world.limits, budgets=())


def be_busy(world: World) -> None:
    world.load = replace(world.load, waiting=9, kv_use=0.9, high_since=world.now, backlog_s=None)


def be_calm(world: World) -> None:
    world.load = ServiceLoad()


def jump_back(world: World) -> None:
    world.now -= JUMP


def sleep(world: World) -> None:
    world.now += JUMP


EVENTS: tuple[Callable[[World], None], ...] = (
    *(start, start, become_ready, become_ready, requeue, open_stream, close_streams, ask, give_up),
    *(announce_maintenance, call_off_maintenance, use_budget_up, begin_budget_again, be_busy, be_calm),
    *(jump_back, sleep),
    lambda world: first(world, Phase.STARTING, lambda job: world.lose(job, "vLLM ran out of memory")),
    lambda world: first(world, Phase.READY, lambda job: world.lose(job, "the node failed")),
)
events = st.sampled_from(EVENTS) | st.sampled_from(POLICIES)


def happen(world: World, event: Callable[[World], None] | Policy) -> None:
    """Let something happen; a change of the policy resumes a paused one, as `PATCH` does."""
    if isinstance(event, Policy):
        world.policy, world.paused, world.failed = event, "", 0
    else:
        event(world)


@given(st.sampled_from(POLICIES), st.lists(st.tuples(events, st.sampled_from([STEP_S, 600, 4000])), max_size=25))
def test_plan_comes_to_rest_after_any_events(
    policy: Policy, happened: list[tuple[Callable[[World], None] | Policy, float]]
) -> None:
    world = World(policy)
    for event, pause_s in happened:
        happen(world, event)
        world.step(pause_s)
    world.done.clear()
    for _ in range(QUIET_STEPS):
        world.step()
    assert world.done[ActionKind.SUBMIT] + world.done[ActionKind.WAKE] <= MOST_SUBMISSIONS, world.done
    assert world.done[ActionKind.PARK] <= 1 and world.done[ActionKind.TAKE_BACK] <= MOST_SUBMISSIONS, world.done


@given(st.sampled_from(POLICIES[:5]), st.lists(st.tuples(events, st.just(STEP_S)), max_size=25))
def test_kept_model_is_there_again_once_nothing_is_in_the_way(
    policy: Policy, happened: list[tuple[Callable[[World], None] | Policy, float]]
) -> None:
    world = World(policy)
    for event, pause_s in happened:
        happen(world, event)
        world.step(pause_s)
    # a person asks for it, and the cluster is free
    world.policy, world.paused, world.failed, world.is_over = Policy(keep="forever", zone=YALE), "", 0, False
    for event in (call_off_maintenance, begin_budget_again, be_calm, close_streams):
        event(world)
    for _ in range(10):
        ask(world)
        world.step()
        start(world)
        world.step()
        become_ready(world)
    assert any(job.is_serving for job in world.jobs), world.jobs


@pytest.mark.parametrize("policy", [POLICIES[0], OFFICE, Policy(hours=OFFICE.hours, on_demand=True, zone=YALE)])
@pytest.mark.parametrize("is_asked", [True, False])
def test_job_that_waits_for_the_end_of_maintenance_is_not_replaced(policy: Policy, is_asked: bool) -> None:
    world = World(policy)
    world.limits = replace(LIMITS, maintenance=[Span(ahead(minutes=20), ahead(hours=3))])
    for _ in range(3 * 600):
        if is_asked:
            ask(world)
        world.step()
    assert world.done[ActionKind.SUBMIT] + world.done[ActionKind.WAKE] == 1, world.done
    assert [job.begin_at for job in world.jobs] == [ahead(hours=3)]


def test_job_for_the_hours_after_maintenance_is_not_replaced() -> None:
    # maintenance from 07:00 to 12:00 of Tuesday; hours from 08:30
    world = World(OFFICE, now=ahead(hours=10), parked_at=ahead(hours=6))
    world.limits = replace(LIMITS, maintenance=[Span(ahead(hours=19), ahead(hours=24))])
    for _ in range(13 * 60):
        world.step(60)
    assert world.done[ActionKind.SUBMIT] == 1, world.done
    assert [job.begin_at for job in world.jobs] == [ahead(hours=24)]


def test_shortened_maintenance_lets_a_waiting_job_begin_sooner() -> None:
    world = World(POLICIES[0])
    world.limits = replace(LIMITS, maintenance=[Span(ahead(minutes=20), ahead(hours=12))])
    world.step()
    world.limits = replace(LIMITS, maintenance=[Span(ahead(minutes=20), ahead(hours=2))])
    world.step()
    world.step()
    assert [job.begin_at for job in world.jobs] == [ahead(hours=2)]
    call_off_maintenance(world)
    world.step()
    world.step()
    assert [job.begin_at for job in world.jobs] == [None]


def test_hand_over_that_had_begun_is_finished_without_a_policy() -> None:
    world = World(POLICIES[0])
    for act in (start, become_ready):
        world.step()
        act(world)
    open_stream(world)
    world.now += timedelta(hours=5, minutes=45)
    for act in (start, become_ready):
        world.step()
        act(world)
    world.policy = Policy()
    old, new = world.jobs
    assert new.replaces == old.name and old.open_streams
    for _ in range(5):
        world.step()
    assert [(job.name, job.is_leaving) for job in world.jobs] == [(old.name, True), (new.name, False)]
    close_streams(world)
    world.step()
    assert [job.name for job in world.jobs] == [new.name]
    # a job that was about to be parked serves on
    world.change(world.jobs[0], leaving_since=world.now)
    world.step()
    assert [job.is_leaving for job in world.jobs] == [False]
