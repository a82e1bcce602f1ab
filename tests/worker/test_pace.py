"""How often squeue is run: at every step while something changes or a person waits for that, else seldom."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bouchet_core.batch_jobs import BatchJob, Download
from bouchet_core.deployments import Deployment, Ending, Job, Phase
from bouchet_core.store import Store
from bouchet_core.store.load import JobLoad, LoadReport
from bouchet_worker.reconcile.step_reads import AT_ONCE, CALM, SETTLED, StepStart, longest_age

from tests.conftest import RedisServer
from tests.worker.scenario import WorkerScenario, requested

NOW = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)
STEP_S = 2.0
LONG_AGO = NOW - timedelta(hours=1)


def attempt(phase: Phase, since: datetime = LONG_AGO, **changes: Any) -> Deployment:
    """Return a deployment whose job is in that phase since then."""
    job = Job(name="bouchet-aa-1", slot=0, slurm_id=7, phase=phase, node="node1", port=1, since={phase: since})
    return requested("aa", LONG_AGO).model_copy(update={"jobs": (job.model_copy(update=changes),), "phase": phase})


def batch_job(**changes: Any) -> BatchJob:
    """Return a batch job that Slurm has had for an hour."""
    known = {"id": "one", "slurm_id": 9, "asked_at": LONG_AGO, "created_at": LONG_AGO, "updated_at": LONG_AGO}
    return Download.model_validate({"model": "org/m", **known, **changes})


def age(
    *records: Deployment, report: LoadReport | None = None, batch_jobs: Any = (), awaited: bool = False
) -> timedelta:
    """Return how old squeue's answer may be for these."""
    start = StepStart(True, "1", records, {}, batch_jobs, (), report, (), awaited)
    return longest_age(start, NOW)


def test_models_that_serve_or_have_waited_for_minutes_are_calm() -> None:
    assert age(attempt(Phase.READY), attempt(Phase.QUEUED)) == CALM
    busy = LoadReport(at=NOW, jobs={"bouchet-aa-1": JobLoad(open=9)}, held={"aa": 0, "bb": 3})
    assert age(attempt(Phase.READY), report=busy) == CALM, "requests that are answered change no job"


@pytest.mark.parametrize(
    "changing",
    [
        attempt(Phase.SUBMITTING),
        attempt(Phase.STARTING),
        attempt(Phase.DRAINING),
        attempt(Phase.READY, stop_requested_at=NOW),
        attempt(Phase.READY, leaving_since=LONG_AGO),
        attempt(Phase.READY, port=None),
        attempt(Phase.QUEUED, since=NOW - SETTLED + timedelta(seconds=1)),
        attempt(Phase.QUEUED, begin_at=NOW + timedelta(minutes=1)),
        requested("bb", NOW),
    ],
)
def test_one_that_changes_is_asked_about_at_every_step(changing: Deployment) -> None:
    assert age(attempt(Phase.READY), changing) == AT_ONCE


def test_job_that_begins_hours_from_now_is_calm_until_then() -> None:
    assert age(attempt(Phase.QUEUED, begin_at=NOW + timedelta(hours=9))) == CALM


@pytest.mark.parametrize("report", [LoadReport(at=NOW, held={"aa": 1}), LoadReport(at=NOW, cut=1)])
def test_request_that_is_held_makes_haste(report: LoadReport) -> None:
    assert age(attempt(Phase.QUEUED), report=report) == AT_ONCE


def test_person_who_waits_makes_haste() -> None:
    assert age(attempt(Phase.READY), awaited=True) == AT_ONCE


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, CALM),
        ({"asked_at": NOW - timedelta(seconds=5)}, AT_ONCE),
        ({"stop_requested_at": NOW}, AT_ONCE),
        # on the login node, or not submitted yet: Slurm does not know it
        ({"slurm_id": None, "asked_at": NOW}, CALM),
    ],
)
def test_batch_job_is_calm_once_it_has_run_for_minutes(changes: dict[str, Any], expected: timedelta) -> None:
    assert age(batch_jobs=[batch_job(**changes)]) == expected


# the whole loop, in steps of two seconds


@pytest.fixture
def calm(scenario: WorkerScenario) -> WorkerScenario:
    """Return a scenario with a model that serves, whose loop asks Slurm as seldom as it may."""
    scenario.ready()
    scenario.loop.calm = CALM
    pass_time(scenario, 2 * STEP_S)
    scenario.slurm.calls.clear()
    return scenario


@pytest.fixture
def api_store(redis_server: RedisServer) -> Iterator[Store]:
    """Yield a store with the API's rights in Redis."""
    store = redis_server.store("api")
    yield store
    store.close()


def pass_time(scenario: WorkerScenario, seconds: float) -> None:
    """Run the steps of that time."""
    for _ in range(round(seconds / STEP_S)):
        scenario.clock.advance(STEP_S)
        scenario.step()


def queries(scenario: WorkerScenario) -> int:
    """Return how often squeue was run since the last call."""
    found = scenario.slurm.programs().count("squeue")
    scenario.slurm.calls.clear()
    return found


def test_model_that_serves_costs_one_query_in_ten_seconds(calm: WorkerScenario) -> None:
    version = calm.get().version
    pass_time(calm, 60)
    assert set(calm.slurm.programs()) == {"squeue"} and queries(calm) == 6
    assert calm.get().version == version


def test_waiting_job_costs_a_query_at_each_step_at_first_and_few_later(scenario: WorkerScenario) -> None:
    scenario.loop.calm = CALM
    job_id = scenario.launch()
    scenario.slurm.calls.clear()
    pass_time(scenario, 60)
    assert queries(scenario) == 30
    pass_time(scenario, 60)
    scenario.slurm.calls.clear()
    pass_time(scenario, 60)
    assert queries(scenario) == 6
    scenario.slurm.start(job_id)
    pass_time(scenario, CALM.total_seconds())
    assert scenario.get().phase is Phase.STARTING


@pytest.mark.parametrize("state", ["down", "draining"])
def test_server_that_is_not_well_is_asked_about_in_the_same_step(calm: WorkerScenario, state: str) -> None:
    calm.slot0.vllm.state = state
    pass_time(calm, STEP_S)
    assert queries(calm) == 1
    assert calm.get().phase is (Phase.DRAINING if state == "draining" else Phase.READY)
    pass_time(calm, 3 * STEP_S)
    assert queries(calm) == 3


def test_job_that_has_ended_is_known_to_have_in_the_same_step(calm: WorkerScenario) -> None:
    (job_id,) = calm.slurm.jobs
    calm.slurm.finish(job_id, "NODE_FAIL")
    calm.slot0.vllm.state = "down"
    pass_time(calm, STEP_S)
    assert calm.get().ending is Ending.FAILED


def test_job_that_ends_while_its_server_answers_is_known_within_ten_seconds(calm: WorkerScenario) -> None:
    (job_id,) = calm.slurm.jobs
    calm.slurm.finish(job_id, "PREEMPTED")
    pass_time(calm, CALM.total_seconds())
    assert calm.get().ending is Ending.PREEMPTED


def test_warning_of_the_job_is_shown_without_a_query(calm: WorkerScenario) -> None:
    calm.slot0.vllm.warning = "no requests for 36 min"
    pass_time(calm, STEP_S)
    assert queries(calm) == 0 and calm.get().reason == "no requests for 36 min"


@pytest.mark.parametrize("note", ["watch", "note_awaited"])
def test_step_after_a_page_is_opened_or_a_launch_waits_asks(calm: WorkerScenario, api_store: Store, note: str) -> None:
    getattr(api_store.live_view, note)()
    pass_time(calm, 5 * STEP_S)
    assert queries(calm) == 5


def test_cancellation_is_followed_at_the_next_step(calm: WorkerScenario) -> None:
    calm.context.store.update("aa", lambda one: one.asked_to_stop(calm.clock()))
    pass_time(calm, STEP_S)
    assert "scancel" in calm.slurm.programs()


def test_query_that_fails_is_repeated_at_the_next_step(calm: WorkerScenario, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(calm.slurm, "squeue", lambda arguments: (1, "", "Unable to contact slurm controller"))
        pass_time(calm, CALM.total_seconds())
        outage = calm.context.store.outage.current()
        assert outage is not None
    calm.slurm.calls.clear()
    pass_time(calm, STEP_S)
    assert queries(calm) == 1 and calm.context.store.outage.current() is None


def test_clock_that_was_set_back_makes_no_answer_last_longer(calm: WorkerScenario) -> None:
    calm.clock.advance(-3600)
    calm.step()
    assert queries(calm) == 1
