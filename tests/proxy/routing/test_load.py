"""What the proxy reports to the worker: open and held requests, and demand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bouchet_core.store import Store
from bouchet_core.store.load import JobLoad, LoadReport
from bouchet_core.usage import UsageRecord
from bouchet_proxy.routing.load import MAX_JOBS, LoadReporter, LoadTracker

from tests.waiting import wait_for

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


class Time:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def tracker(time: Time) -> LoadTracker:
    return LoadTracker(time)


def test_report_counts_open_requests_and_remembers_the_last_end(tracker: LoadTracker, time: Time) -> None:
    with tracker.track("job-1"), tracker.track("job-1"), tracker.track("job-2"):
        assert {name: load.open for name, load in tracker.report(NOW).jobs.items()} == {"job-1": 2, "job-2": 1}
        time.now += timedelta(seconds=9)
    report = tracker.report(NOW)
    assert report.open_requests("job-1") == 0 and report.jobs["job-1"].last_end == time.now
    assert report.open_requests("never asked") == 0


def test_request_that_fails_is_no_longer_open(tracker: LoadTracker) -> None:
    with pytest.raises(RuntimeError), tracker.track("job-1"):
        raise RuntimeError
    assert tracker.report(None).open_requests("job-1") == 0


def test_report_counts_held_requests_while_they_wait(tracker: LoadTracker) -> None:
    with tracker.hold("aa"), tracker.hold("aa"):
        assert tracker.report(None).held == {"aa": 2}
    assert tracker.report(None).held == {}


def test_want_asks_once_and_again_after_a_while(tracker: LoadTracker, time: Time) -> None:
    for _ in range(5):
        tracker.want("aa")
    assert tracker.take_wanted() == ("aa",) and tracker.take_wanted() == ()
    time.now += timedelta(seconds=11)
    tracker.want("aa")
    assert tracker.take_wanted() == ("aa",)


def test_tracker_forgets_the_jobs_that_ended_first(tracker: LoadTracker) -> None:
    for number in range(MAX_JOBS + 10):
        with tracker.track(f"job-{number}"):
            pass
    names = list(tracker.report(None).jobs)
    assert len(names) == MAX_JOBS and names[0] == "job-10"


def test_seed_takes_over_when_jobs_were_used_last(tracker: LoadTracker) -> None:
    tracker.seed(LoadReport(at=NOW, jobs={"a": JobLoad(last_end=NOW - timedelta(hours=1)), "b": JobLoad(open=2)}))
    report = tracker.report(None)
    assert report.jobs["a"].last_end == NOW - timedelta(hours=1)
    assert report.jobs["b"] == JobLoad(open=0, last_end=NOW), "its answers ended with the earlier process"


def test_reporter_writes_changes_and_demand(store: Store) -> None:
    tracker = LoadTracker()
    reporter = LoadReporter(store, tracker, lambda: NOW)
    reporter.start()
    try:
        with tracker.track("job-1"):
            tracker.want("aa")
            wait_for(lambda: (found := store.load.current()) is not None and found.open_requests("job-1") == 1, 10)
        wait_for(lambda: (found := store.load.current()) is not None and found.open_requests("job-1") == 0, 10)
        assert set(store.load.demand()) == {"aa"}
        found = store.load.current()
        assert found is not None and found.table_at == NOW
    finally:
        reporter.stop()


def test_forget_demand_removes_what_is_old_or_unreadable(store: Store) -> None:
    store.load.want("old", NOW - timedelta(hours=1))
    store.load.want("new", NOW - timedelta(seconds=5))
    store._redis.hset("bouchet:demand", "odd", "yesterday")
    assert set(store.load.demand()) == {"old", "new"}
    store.load.forget_demand(NOW)
    assert set(store.load.demand()) == {"new"}


def answer(output: int, generating_ms: int, **fields: Any) -> UsageRecord:
    values: dict[str, Any] = {"deployment": "aa", "error": "", "output": output, "generating_ms": generating_ms}
    empty = {"key": "", "model": "", "session": "", "endpoint": "", "status": 200}
    return UsageRecord(**{"at": 0.0, "input": 0, "cached": 0, "first_ms": 1, **empty, **values, **fields})


def test_report_has_the_speed_of_slow_answers(tracker: LoadTracker) -> None:
    for tokens_per_s in range(40, 60):
        tracker.measure(answer(tokens_per_s * 10, 10_000))
    assert tracker.report(NOW).speeds == {"aa": 42.0}


def test_short_failed_and_continued_answers_measure_nothing(tracker: LoadTracker) -> None:
    for record in (
        answer(20, 10_000),
        answer(500, 10_000, error="client_left"),
        answer(500, 10_000, continued=1),
        answer(500, 0),
        answer(500, 10_000, deployment=""),
    ):
        tracker.measure(record)
    assert tracker.report(NOW).speeds == {}


def test_speed_outlives_a_restart_of_the_proxy(tracker: LoadTracker, time: Time) -> None:
    tracker.measure(answer(1000, 10_000))
    successor = LoadTracker(time)
    successor.seed(tracker.report(NOW))
    assert successor.report(NOW).speeds == {"aa": 100.0}
