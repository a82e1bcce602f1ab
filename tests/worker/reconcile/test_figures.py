"""Figures of running jobs: read through their slot, stored for the dashboard, and shared with plans for replicas."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from bouchet_worker.reconcile import figures
from bouchet_worker.reconcile.figures import FigureReader

from tests.conftest import RedisServer
from tests.waiting import wait_for
from tests.worker.scenario import WorkerScenario


def read(reader: FigureReader, scenario: WorkerScenario) -> None:
    """Read all jobs once."""
    with ThreadPoolExecutor(2) as pool:
        reader.read_all(scenario.context.store.live(), pool)


def test_figures_of_a_ready_job_are_stored(scenario: WorkerScenario, redis_server: RedisServer) -> None:
    reader = FigureReader(scenario.context, scenario.probe)
    read(reader, scenario)
    assert scenario.context.store.figures.current(scenario.clock()) == []
    scenario.ready()
    scenario.slot0.vllm.waiting = 3
    read(reader, scenario)
    (found,) = scenario.context.store.figures.current(scenario.clock())
    assert (found.deployment, found.job, found.running, found.waiting) == ("aa", "bouchet-aa-1", 16, 3)
    assert reader.latest("bouchet-aa-1") == found and reader.latest("other") is None
    scenario.clock.advance(figures.FRESH_S + 1)
    assert reader.latest("bouchet-aa-1") is None, "plans for replicas use no old figures"
    store = redis_server.store("api")
    _, points = store.live_view.points("", time.time())
    store.close()
    assert [(point.job, point.waiting) for point in points] == [("bouchet-aa-1", 3.0)]


def test_server_that_does_not_answer_has_no_figures(scenario: WorkerScenario) -> None:
    reader = FigureReader(scenario.context, scenario.probe)
    scenario.ready()
    read(reader, scenario)
    scenario.slot0.vllm.key = "another"
    read(reader, scenario)
    assert reader.latest("bouchet-aa-1") is None


def test_page_that_is_open_makes_readings_more_frequent(
    scenario: WorkerScenario, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "ASK_S", 0.02)
    monkeypatch.setattr(figures, "WATCHED_S", 0.05)
    scenario.ready()
    reader, stopping = FigureReader(scenario.context, scenario.probe), threading.Event()
    thread = threading.Thread(target=reader.run, args=(stopping,))
    thread.start()
    store = redis_server.store("api")

    def count() -> int:
        return len(store.live_view.points("", time.time())[1])

    try:
        wait_for(lambda: count() == 1, 10)
        time.sleep(0.4)
        assert count() == 1, "the next reading is due in half a minute"
        store.live_view.watch()
        wait_for(lambda: count() >= 4, 10)
    finally:
        stopping.set()
        thread.join()
        store.close()
