"""Live figures: what two readings of a job say, and what the store keeps of them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import redis
from bouchet_core.figures import JobFigures, LatencyHistogram
from bouchet_core.live import FigurePoint, LiveRequest, LiveRequests, point_between, shown_text
from bouchet_core.store.live import POINTS_KEPT, WATCHED_S

from tests.conftest import RedisServer

NOW = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)


def figures(seconds: float = 0, **fields: Any) -> JobFigures:
    """Return what a job reported that many seconds later."""
    return JobFigures(deployment="aa", job="bouchet-aa-1", at=NOW + timedelta(seconds=seconds), **fields)


def histogram(*counts: float) -> LatencyHistogram:
    return LatencyHistogram(bounds=(0.1, 1.0), counts=counts)


def test_point_has_rates_and_quantiles_of_the_time_between() -> None:
    earlier = figures(generation_tokens=1000, prefix_queries=100, prefix_hits=0, first_token=histogram(0, 5, 5))
    later = figures(
        10, running=3, waiting=1, kv_share=0.25, generation_tokens=2500, prompt_tokens=400, prefix_queries=300,
        prefix_hits=150, preemptions=2, finished={"stop": 4.0}, first_token=histogram(2, 9, 9),
    )  # fmt: skip
    point = point_between(earlier, later)
    assert (point.running, point.waiting, point.kv, point.made, point.read) == (3, 1, 0.25, 150, 40)
    assert (point.hits, point.preempted, point.finished) == (0.75, 2, 4)
    # four requests in ten seconds: two within 0.1 s, two within 1 s
    assert point.first50 == 0.1 and point.first95 == pytest.approx(0.91)
    assert point.next50 is None


@pytest.mark.parametrize(
    "earlier", [None, figures(-10, generation_tokens=5000), figures(-1000), figures(5), figures(-5, preemptions=9)]
)
def test_point_without_a_fitting_earlier_reading_has_no_rates(earlier: JobFigures | None) -> None:
    point = point_between(earlier, figures(running=2, generation_tokens=100))
    assert point.running == 2 and point.made is None and point.hits is None and point.first50 is None


def test_store_keeps_the_last_hour_and_is_bounded(redis_server: RedisServer) -> None:
    worker, api = redis_server.store("worker"), redis_server.store("api")
    try:
        for number in range(POINTS_KEPT + 30):
            worker.live_view.add_points([FigurePoint(job="j", deployment="aa", at=number)])
        last, points = api.live_view.points("", time.time())
        assert len(points) == POINTS_KEPT and points[-1].at == POINTS_KEPT + 29
        assert api.live_view.points(last, time.time()) == (last, [])
        assert api.live_view.points("", time.time() + 3700)[1] == []
    finally:
        worker.close()
        api.close()


def test_open_requests_pass_from_the_proxy_to_the_api(redis_server: RedisServer) -> None:
    proxy, api = redis_server.store("proxy"), redis_server.store("api")
    try:
        assert not proxy.live_view.is_watched() and api.live_view.requests() is None
        api.live_view.watch()
        assert proxy.live_view.is_watched()
        report = LiveRequests(at=1.0, requests=(LiveRequest(id=1, key="owner", phase="decode", tokens=3),))
        proxy.live_view.report_requests(report)
        assert api.live_view.requests() == report
    finally:
        proxy.close()
        api.close()


def test_worker_knows_while_a_page_is_open_or_a_change_is_waited_for(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, api = redis_server.store("worker"), redis_server.store("api")
    try:
        assert worker.ask(worker.live_view.awaited_query()) == [False]
        api.live_view.note_awaited()
        assert worker.ask(worker.live_view.awaited_query()) == [True]
        assert not worker.live_view.is_watched(), "figures and requests are for pages alone"
        with redis.Redis(port=redis_server.port, password=redis_server.password) as raw:
            assert 0 < int(cast("Any", raw.ttl("bouchet:awaited"))) <= WATCHED_S
            raw.delete("bouchet:awaited")
            api.live_view.note_awaited()
            assert not raw.exists("bouchet:awaited"), (
                "a client that asks twice a second costs one write in four seconds"
            )
            monkeypatch.setattr("bouchet_core.store.live.NOTE_EVERY_S", 0.0)
            api.live_view.note_awaited()
            assert raw.exists("bouchet:awaited")
            raw.delete("bouchet:awaited")
        api.live_view.watch()
        assert worker.ask(worker.live_view.awaited_query()) == [True]
    finally:
        worker.close()
        api.close()


def test_shown_text_is_cut() -> None:
    assert shown_text("a") == "a" and len(shown_text("x" * 9000)) == 300
