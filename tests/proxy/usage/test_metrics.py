"""The metrics as Prometheus reads them."""

from __future__ import annotations

from bouchet_core.usage import UsageRecord
from bouchet_proxy.usage.recorder import FIRST_BYTE_BUCKETS_S, ProxyMetrics
from bouchet_proxy.usage.request import ActiveRequests
from prometheus_client.parser import text_string_to_metric_families

RECORD = UsageRecord(
    at=1.0,
    key="owner",
    model='org/"M"',
    session="",
    deployment="d1",
    endpoint="/v1/messages",
    status=200,
    error="",
    input=5,
    cached=90,
    output=7,
    first_ms=300,
    generating_ms=10,
)


def samples(metrics: ProxyMetrics) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    found = [sample for family in families for sample in family.samples]
    return {(s.name, *(value for _, value in sorted(s.labels.items()))): s.value for s in found}


def test_count_adds_to_every_family() -> None:
    metrics = ProxyMetrics(ActiveRequests())
    metrics.count(RECORD, clamped=True)
    metrics.count_rejected("/v1/messages", "invalid_api_key", 401)
    metrics.count_dropped()
    found = samples(metrics)
    assert found["bouchet_requests_total", "/v1/messages", 'org/"M"', "200"] == 1
    assert found["bouchet_requests_total", "/v1/messages", "", "401"] == 1
    assert found["bouchet_errors_total", "invalid_api_key"] == 1
    assert [found["bouchet_tokens_total", kind, 'org/"M"'] for kind in ("input", "cached", "output")] == [5, 90, 7]
    assert found["bouchet_clamped_requests_total", 'org/"M"'] == 1
    assert found["bouchet_usage_records_dropped_total",] == 1
    assert found["bouchet_time_to_first_byte_seconds_sum", "/v1/messages", 'org/"M"'] == 0.3
    assert found["bouchet_time_to_first_byte_seconds_count", "/v1/messages", 'org/"M"'] == 1


def test_first_byte_is_in_the_right_buckets() -> None:
    metrics = ProxyMetrics(ActiveRequests())
    metrics.count(RECORD, clamped=False)
    found = samples(metrics)
    name = "bouchet_time_to_first_byte_seconds_bucket"
    counts = [found[name, "/v1/messages", str(bound), 'org/"M"'] for bound in FIRST_BYTE_BUCKETS_S]
    assert counts == [0.0 if bound < 0.3 else 1.0 for bound in FIRST_BYTE_BUCKETS_S]


def test_gauges_follow_active_requests() -> None:
    active = ActiveRequests()
    metrics = ProxyMetrics(active)
    active.streams, active.waiting = 2, 3
    found = samples(metrics)
    assert (found["bouchet_streams_open",], found["bouchet_requests_held",]) == (2, 3)


def test_render_has_no_creation_times() -> None:
    metrics = ProxyMetrics(ActiveRequests())
    metrics.count(RECORD, clamped=False)
    assert b"_created" not in metrics.render()


def test_registries_are_independent() -> None:
    one, other = ProxyMetrics(ActiveRequests()), ProxyMetrics(ActiveRequests())
    one.count_dropped()
    assert samples(other)["bouchet_usage_records_dropped_total",] == 0
