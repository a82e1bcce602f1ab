"""decide() is total over phases and observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from bouchet_core.deployments import LEGAL_MOVES, Deployment, Job, Phase, Placement
from bouchet_core.tasks import TaskName
from bouchet_worker.reconcile.decide import HEALTH_FAILING, NOTHING, WRONG_SERVER, Decision, apply, decide
from bouchet_worker.reconcile.observation import (
    AccountingBehind,
    ConnectionFile,
    EndFile,
    HealthReport,
    HealthStatus,
    JobNotFound,
    JobStatus,
    Observed,
    QueryFailed,
    QueryResult,
)
from bouchet_worker.slurm.states import STATES, State, StateClass

from tests.worker.scenario import requested

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=5)
PLACEMENT = Placement(partition="gpu_h200", gpus=1, gpu_type="h200", nodes=1, cpus=6, memory_gib=240, walltime_s=21_600)
CONNECTION = ConnectionFile(job_name="bouchet-aa-1", node="node1", port=20001, image="i.sif", image_sha256="ab")
RUNNING = JobStatus(State.RUNNING, "RUNNING", node="node1")
RESULTS: list[QueryResult] = [
    *(JobStatus(state, state.value, "Priority", "node1") for state in State),
    JobNotFound(),
    AccountingBehind("RUNNING"),
    QueryFailed("down"),
]
REPORTS = [None, *(HealthReport(status) for status in HealthStatus)]
KINDS = ("vllm_exited", "idle", "walltime", "stopped", "refused")
END_FILES = [
    None,
    *(EndFile.model_validate({"job_name": "bouchet-aa-1", "kind": kind, "sentence": "s"}) for kind in KINDS),
]
SUBMITTED_PHASES = (Phase.QUEUED, Phase.STARTING, Phase.READY, Phase.DRAINING)


def record_in(
    phase: Phase, *, stop: bool = False, submitted: bool = True, changes: Mapping[str, object] | None = None
) -> Deployment:
    record = requested("aa", LONG_AGO)
    job = Job(
        name="bouchet-aa-1",
        slot=0,
        phase=phase,
        slurm_id=7 if submitted else None,
        placement=PLACEMENT,
        node="node1" if phase in (Phase.READY, Phase.DRAINING) else None,
        port=20001 if phase in (Phase.READY, Phase.DRAINING, Phase.STARTING) else None,
        since={phase: LONG_AGO},
    ).model_copy(update=changes or {})
    jobs = () if phase is Phase.REQUESTED else (job,)
    return record.model_copy(update={"phase": phase, "jobs": jobs, "stop_requested_at": LONG_AGO if stop else None})


def test_times_of_a_job_are_those_that_slurm_counts() -> None:
    """A check that comes late finds the start and the end where they were."""
    queued = record_in(Phase.QUEUED)
    started = decided(queued, Observed(replace(RUNNING, run_s=40.0)))
    assert started.jobs[-1].since[Phase.STARTING] == NOW - timedelta(seconds=40) and started.updated_at == NOW
    later = NOW + timedelta(minutes=9)
    gone = JobStatus(State.CANCELLED, "CANCELLED by 2001", node="node1", run_s=100.0)
    ended = decided(started, Observed(gone), later)
    assert ended.jobs[-1].since[Phase.ENDED] == NOW + timedelta(seconds=60) and ended.updated_at == later
    completing = JobStatus(State.COMPLETING, "COMPLETING", node="node1", run_s=100.0)
    draining = decided(started, Observed(completing), later)
    assert draining.jobs[-1].since[Phase.DRAINING] == NOW + timedelta(seconds=60)
    waits = JobStatus(State.PENDING, "PENDING", "BeginTime", run_s=0.0)
    again = decided(draining, Observed(waits), later + timedelta(seconds=3))
    assert again.jobs[-1].since[Phase.QUEUED] == NOW + timedelta(seconds=60) and again.jobs[-1].run_s is None
    # a job that was put back counts from 0 already while Slurm cleans up
    reset = decided(started, Observed(replace(completing, run_s=0.0)), later)
    assert reset.jobs[-1].since[Phase.DRAINING] == later and reset.jobs[-1].run_s is None
    assert decided(reset, Observed(waits), later + timedelta(seconds=3)).jobs[-1].since[Phase.QUEUED] > later
    # never before what is known already, never after now
    stopped = apply(started, Decision(Phase.DRAINING), NOW + timedelta(seconds=90))
    assert decided(stopped, Observed(gone), later).jobs[-1].since[Phase.ENDED] == NOW + timedelta(seconds=90)
    assert decided(started, Observed(replace(gone, run_s=1e6)), later).jobs[-1].since[Phase.ENDED] == later
    assert decided(started, Observed(replace(gone, run_s=None)), later).jobs[-1].since[Phase.ENDED] == later
    early = decided(queued, Observed(replace(RUNNING, run_s=1e7)))
    assert early.jobs[-1].since[Phase.STARTING] == LONG_AGO


def decided(record: Deployment, observed: Observed, now: datetime = NOW) -> Deployment:
    return apply(record, decide(record, observed, now), now)


def test_decide_makes_a_legal_move_for_every_observation_in_every_phase() -> None:
    for phase, result, health, end_file, connection, stop in product(
        Phase, RESULTS, REPORTS, END_FILES, (None, CONNECTION), (False, True)
    ):
        record = record_in(phase, stop=stop, submitted=phase is not Phase.SUBMITTING)
        observed = Observed(result, connection, health, "", end_file)
        new = decided(record, observed)
        assert new is record or new.version == record.version + 1
        assert new.phase is record.phase or new.phase in LEGAL_MOVES[record.phase]
        assert (new.phase is Phase.ENDED) == (new.ending is not None) or record.phase is Phase.ENDED
        if new.phase is Phase.ENDED and record.phase is not Phase.ENDED:
            assert new.reason, (phase, result, end_file)
        assert decided(new, observed).version <= new.version + 1


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("phase", [*SUBMITTED_PHASES, Phase.ENDED])
def test_decide_after_failed_query_changes_nothing(phase: Phase, stop: bool) -> None:
    assert decide(record_in(phase, stop=stop), Observed(QueryFailed()), NOW) == NOTHING


@pytest.mark.parametrize("phase", SUBMITTED_PHASES)
def test_decide_ends_deployment_exactly_in_ended_states(phase: Phase) -> None:
    for state in State:
        new = decided(record_in(phase), Observed(JobStatus(state, state.value)))
        assert (new.phase is Phase.ENDED) == (STATES[state].state_class is StateClass.ENDED), state


@pytest.mark.parametrize("phase", SUBMITTED_PHASES)
def test_decide_cancels_unwanted_job_while_slurm_has_it(phase: Phase) -> None:
    for state in State:
        decision = decide(record_in(phase, stop=True), Observed(JobStatus(state, state.value)), NOW)
        alive = STATES[state].state_class in (StateClass.WAITING, StateClass.RUNNING, StateClass.PAUSED)
        assert (decision.task is TaskName.CANCEL) == alive, state


@pytest.mark.parametrize(
    ("stop", "task"), [(False, TaskName.SUBMIT), (True, TaskName.CANCEL)], ids=["wanted", "stop requested"]
)
@pytest.mark.parametrize("phase", [Phase.REQUESTED, Phase.SUBMITTING])
def test_decide_resends_lost_task_after_a_moment(phase: Phase, stop: bool, task: TaskName) -> None:
    record = record_in(phase, submitted=False, stop=stop)
    assert decide(record, Observed(QueryFailed()), LONG_AGO + timedelta(seconds=1)) == NOTHING
    assert decide(record, Observed(QueryFailed()), NOW) == Decision(task=task)


def test_starting_job_is_ready_only_with_healthy_server() -> None:
    healthy = HealthReport(HealthStatus.HEALTHY, window=4096, vllm_version="0.32.0")
    ready = decided(record_in(Phase.STARTING), Observed(RUNNING, health=healthy))
    assert ready.phase is Phase.READY and ready.job is not None and ready.job.window == 4096
    assert decided(record_in(Phase.STARTING), Observed(RUNNING)).phase is Phase.STARTING


def test_ready_job_has_all_steps_of_its_start() -> None:
    healthy = HealthReport(HealthStatus.HEALTHY)
    record = record_in(Phase.STARTING, changes={"steps": ("vLLM is starting",)})
    steps = ("vLLM is starting", "loading weights", "server started")
    ready = decided(record, Observed(RUNNING, health=healthy, steps=steps))
    assert ready.job is not None and ready.job.steps == steps


def test_starting_job_waits_for_pending_smoke_test() -> None:
    observed = Observed(RUNNING, health=HealthReport(HealthStatus.HEALTHY), smoke_pending=True)
    new = decided(record_in(Phase.STARTING), observed)
    assert new.phase is Phase.STARTING and new.job is not None and new.job.progress == new.reason != ""


@pytest.mark.parametrize(
    ("before", "observed", "after"),
    [
        ("", "vLLM is starting", "vLLM is starting"),
        ("loading weights, 1 of 4 files", "loading weights, 3 of 4 files", "loading weights, 3 of 4 files"),
        ("compiling", "weights loaded in 12 s", "compiling"),
        ("compiling", "", "compiling"),
        # the job script starts vLLM again on another port
        ("engine ready, starting the server", "starting the container", "starting the container"),
        ("starting the container", "vLLM is starting", "vLLM is starting"),
        (WRONG_SERVER, "compiling", "compiling"),
    ],
)
def test_starting_job_progress_never_goes_back(before: str, observed: str, after: str) -> None:
    new = decided(record_in(Phase.STARTING, changes={"progress": before}), Observed(RUNNING, progress=observed))
    assert new.job is not None and new.job.progress == after


@pytest.mark.parametrize(("failing_s", "reason"), [(2.0, ""), (30.0, HEALTH_FAILING)])
def test_ready_job_reports_failing_health_after_a_while(failing_s: float, reason: str) -> None:
    observed = Observed(RUNNING, health=HealthReport(HealthStatus.FAILING, failing_s))
    new = decided(record_in(Phase.READY), observed)
    assert (new.phase, new.reason) == (Phase.READY, reason)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.READY])
@pytest.mark.parametrize(
    ("health", "reason"),
    [
        (HealthReport(HealthStatus.FAILING, 30.0, unreachable_reason="node7 refuses"), "node7 refuses"),
        (HealthReport(HealthStatus.FAILING, 30.0, wrong_server=True), WRONG_SERVER),
    ],
)
def test_unusable_server_is_reported_with_its_cause(phase: Phase, health: HealthReport, reason: str) -> None:
    new = decided(record_in(phase), Observed(RUNNING, health=health, progress="loading weights"))
    assert (new.phase, new.reason) == (phase, reason)


@pytest.mark.parametrize(("seconds", "reported"), [(5, False), (60, True)])
def test_completing_job_is_reported_stuck_after_a_while(seconds: int, reported: bool) -> None:
    status = JobStatus(State.COMPLETING, "COMPLETING", node="node1")
    decision = decide(record_in(Phase.DRAINING, stop=True), Observed(status), LONG_AGO + timedelta(seconds=seconds))
    assert decision.phase is None, "it has not ended"
    assert ("still cleaning up the job on node1" in (decision.reason or "")) is reported


def test_job_not_found_ends_deployment_after_grace_period() -> None:
    record = record_in(Phase.READY)
    failing = Observed(JobNotFound(), health=HealthReport(HealthStatus.FAILING))
    assert decide(record, failing, LONG_AGO + timedelta(seconds=5)) == NOTHING
    assert decided(record, failing).phase is Phase.ENDED
    healthy = Observed(JobNotFound(), health=HealthReport(HealthStatus.HEALTHY))
    assert decide(record, healthy, NOW) == NOTHING, "it answers, so it runs"


@pytest.mark.parametrize(
    ("stop", "hours", "ends"),
    [(False, 0, False), (False, 5, False), (False, 7, True), (True, 0, False), (True, 1, True)],
)
def test_runaway_job_ends_after_its_walltime_or_a_cancellation(stop: bool, hours: int, ends: bool) -> None:
    record = record_in(Phase.READY, stop=stop)
    runaway = Observed(AccountingBehind("RUNNING"), health=HealthReport(HealthStatus.FAILING))
    now = LONG_AGO + timedelta(hours=hours, minutes=1)
    new = decided(record, runaway, now)
    assert (new.phase is Phase.ENDED) is ends
    assert ("accounting still reports RUNNING" in new.reason) is (hours > 0)
    assert decide(record, replace(runaway, health=HealthReport(HealthStatus.HEALTHY)), now) == NOTHING


def test_connection_file_adds_gpus_driver_and_torch_to_record() -> None:
    facts = {"gpus": ("NVIDIA H200",), "driver": "580.95.05", "torch": "2.13.0"}
    observed = Observed(RUNNING, connection=CONNECTION.model_copy(update=facts))
    job = decided(record_in(Phase.STARTING), observed).job
    assert job is not None
    assert (job.gpus, job.driver, job.torch_version) == (("NVIDIA H200",), "580.95.05", "2.13.0")
