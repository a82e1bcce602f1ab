"""Figures of a job, from pages of vLLM's metrics; and their store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.figures import JobFigures, LatencyHistogram, parse_figures
from bouchet_core.store import Store
from bouchet_core.store.figures import FIGURES_TTL

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
LABELS = 'engine="{}",model_name="qwen3-coder"'


def engine(number: int, *, old_names: bool = False) -> str:
    """Return the metrics of one engine as vLLM prints them."""
    labels = LABELS.format(number)
    kv = "gpu_cache_usage_perc" if old_names else "kv_cache_usage_perc"
    between = "time_per_output_token_seconds" if old_names else "inter_token_latency_seconds"
    return f"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{labels}}} 3.0
vllm:num_requests_waiting{{{labels}}} 1.0
vllm:{kv}{{{labels}}} 0.{number + 1}
vllm:prefix_cache_queries_total{{{labels}}} 1000.0
vllm:prefix_cache_queries_created{{{labels}}} 1.7e+09
vllm:prefix_cache_hits_total{{{labels}}} 900.0
vllm:num_preemptions_total{{{labels}}} 2.0
vllm:prompt_tokens_total{{{labels}}} 5e+04
vllm:generation_tokens_total{{{labels}}} 1200.0
vllm:request_success_total{{{labels},finished_reason="stop"}} 7.0
vllm:request_success_total{{{labels},finished_reason="length"}} 1.0
vllm:time_to_first_token_seconds_bucket{{{labels},le="0.1"}} 2.0
vllm:time_to_first_token_seconds_bucket{{{labels},le="1.0"}} 6.0
vllm:time_to_first_token_seconds_bucket{{{labels},le="+Inf"}} 8.0
vllm:time_to_first_token_seconds_count{{{labels}}} 8.0
vllm:time_to_first_token_seconds_sum{{{labels}}} 6.5
vllm:{between}_bucket{{le="0.01",{labels}}} 100.0
vllm:{between}_bucket{{le="+Inf",{labels}}} 100.0
vllm:{between}_sum{{{labels}}} 0.5
process_cpu_seconds_total 12.0
"""


def parsed(page: str) -> JobFigures | None:
    return parse_figures(page, deployment="abc", job="bouchet-abc", at=NOW, model="qwen3-coder")


@pytest.mark.parametrize("old_names", [False, True])
def test_parse_figures_adds_engines_under_either_name(old_names: bool) -> None:
    figures = parsed(engine(0, old_names=old_names) + engine(1, old_names=old_names))
    assert figures is not None
    assert (figures.running, figures.waiting, figures.kv_share) == (6, 2, 0.2)
    assert (figures.prefix_queries, figures.prefix_hits, figures.preemptions) == (2000, 1800, 4)
    assert (figures.prompt_tokens, figures.generation_tokens) == (100_000, 2400)
    assert figures.finished == {"stop": 14, "length": 2}
    assert figures.first_token == LatencyHistogram(bounds=(0.1, 1.0), counts=(4, 12, 16), sum_s=13.0)
    assert (figures.between_tokens.count, figures.between_tokens.sum_s) == (200, 1.0)


@pytest.mark.parametrize("page", ["", "not metrics", "process_cpu_seconds_total 12.0\n", "vllm:num_requests_running\n"])
def test_parse_figures_of_another_page_is_none(page: str) -> None:
    assert parsed(page) is None


@pytest.mark.parametrize("odd", ["NaN", "-3", "+Inf", "many"])
def test_parse_figures_leaves_odd_values_out(odd: str) -> None:
    figures = parsed(f"vllm:num_requests_running {odd}\nvllm:num_requests_waiting 2\nvllm:kv_cache_usage_perc 3\n")
    assert figures is not None
    assert (figures.running, figures.waiting, figures.kv_share) == (0, 2, 1.0)
    assert figures.first_token.count == 0 and figures.first_token.quantile(0.5) is None


def test_parse_figures_of_a_hostile_page_is_small() -> None:
    reasons = ["stop", "a\\nb", "\x1b[31m", "x" * 41, *(f"r{n}" for n in range(5000)), *("a" * n for n in range(1, 40))]
    lines = [f'vllm:request_success_total{{finished_reason="{reason}"}} 3' for reason in reasons]
    name = "vllm:time_to_first_token_seconds_bucket"
    lines += [f'{name}{{le="{bound}"}} 1' for bound in (*range(1000), "+Inf")]
    lines += ["vllm:num_requests_running 1e308", "vllm:prompt_tokens_total 7"]
    found = parse_figures("\n".join(lines), deployment="d", job="j", at=NOW)
    assert found is not None and (found.running, found.prompt_tokens) == (0, 7)
    assert len(found.finished) == 20 and found.finished["stop"] == 3 and found.first_token.count == 0
    assert all(reason.isalpha() for reason in found.finished)


def test_quantile_interpolates_within_a_bucket() -> None:
    histogram = LatencyHistogram(bounds=(1.0, 2.0, 4.0), counts=(10, 10, 20, 40), sum_s=100)
    assert histogram.quantile(0.125) == pytest.approx(0.5)
    assert histogram.quantile(0.375) == pytest.approx(3.0)
    assert histogram.quantile(0.95) == 4.0


def test_histogram_since_counts_the_difference_or_all_after_a_restart() -> None:
    earlier = LatencyHistogram(bounds=(1.0,), counts=(3, 5), sum_s=4)
    later = LatencyHistogram(bounds=(1.0,), counts=(4, 9), sum_s=9)
    assert later.since(earlier) == LatencyHistogram(bounds=(1.0,), counts=(1, 4), sum_s=5)
    assert earlier.since(later) == earlier


def test_figures_are_stored_by_job_and_forgotten_when_old_or_gone(store: Store) -> None:
    figures = parsed(engine(0))
    assert figures is not None
    other = figures.model_copy(update={"job": "bouchet-other", "at": NOW - FIGURES_TTL - timedelta(seconds=1)})
    store.figures.put([figures, other])
    store.figures.put([])
    assert store.figures.current(NOW) == [figures]
    assert store.figures.current(other.at) == [figures, other]
    store.figures.keep(["bouchet-other"])
    assert store.figures.current(other.at) == [other]
