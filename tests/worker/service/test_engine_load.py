"""What vLLM's metrics say of the load, and how long the backlog lasts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_worker.service.engine_load import EngineLoad, LoadHistory, parse_engine_load
from bouchet_worker.service.inputs import ServiceLoad
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)
# as vLLM 0.32 prints it, with two engines of one server
PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="coder"} 12.0
vllm:num_requests_running{engine="1",model_name="coder"} 4.0
vllm:num_requests_waiting{engine="0",model_name="coder"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="coder"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="coder"} 0.875
vllm:request_success_total{engine="0",finished_reason="stop",model_name="coder"} 100.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="coder"} 3.0
vllm:request_success_created{engine="0",finished_reason="stop"} 1.7e+09
"""


def history(*loads: EngineLoad, every_s: float = 30.0, jobs: tuple[str, ...] = ("job-1",)) -> LoadHistory:
    """Return the history of one server, read at regular times."""
    found = LoadHistory()
    for number, load in enumerate(loads):
        found.add([load], jobs, NOW + timedelta(seconds=number * every_s), number * every_s)
    return found


def test_parse_engine_load_adds_engines_and_takes_the_fullest_cache() -> None:
    assert parse_engine_load(PAGE) == EngineLoad(running=16, waiting=7, kv_use=0.875, finished=103)


@pytest.mark.parametrize("page", ["", "not metrics", "vllm:num_requests_waiting NaN\nvllm:num_requests_running -3\n"])
def test_parse_engine_load_of_another_page_counts_nothing(page: str) -> None:
    assert parse_engine_load(page) == EngineLoad()


@given(st.text(max_size=300))
def test_parse_engine_load_of_any_text_returns(text: str) -> None:
    load = parse_engine_load(f"vllm:num_requests_waiting{text}\nvllm:kv_cache_usage_perc {text}")
    assert load.waiting >= 0 and 0 <= load.kv_use <= 1


def test_history_is_high_since_it_was_high_without_a_break() -> None:
    high, low = EngineLoad(waiting=6), EngineLoad(waiting=5, kv_use=0.8)
    assert history(low, high, high).high_since == NOW + timedelta(seconds=30)
    assert history(high, low, high).high_since == NOW + timedelta(seconds=60)
    assert history(high, low).high_since is None
    assert history(EngineLoad(kv_use=0.81)).high_since == NOW


def test_history_estimates_when_the_backlog_is_gone() -> None:
    # 60 finished in a minute, and 10 fewer are present: 50 came
    draining = history(EngineLoad(16, 40, finished=0), EngineLoad(16, 30, finished=60), every_s=60)
    load = draining.added_to(ServiceLoad(held=2))
    assert (load.held, load.waiting) == (2, 30)
    assert load.backlog_s == pytest.approx(180)
    growing = history(EngineLoad(16, 10, finished=0), EngineLoad(16, 20, finished=60), every_s=60)
    assert growing.added_to(ServiceLoad()).backlog_s is None
    # no rate is known after one reading
    assert history(EngineLoad(16, 10)).added_to(ServiceLoad()).backlog_s is None
    assert history(EngineLoad(1, 0)).added_to(ServiceLoad()).backlog_s == 0


def test_history_of_other_servers_begins_again() -> None:
    found = history(EngineLoad(16, 10, finished=5000))
    found.add([EngineLoad(16, 10, finished=3)], ("job-2",), NOW + timedelta(seconds=30), 30)
    assert found.added_to(ServiceLoad()).backlog_s is None


def test_history_without_an_answer_leaves_the_load() -> None:
    found = LoadHistory()
    found.add([], (), NOW, 0.0)
    assert found.added_to(ServiceLoad(held=1)) == ServiceLoad(held=1)
