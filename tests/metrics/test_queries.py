"""Every query of the dashboard and of the alerts, asked of a real Prometheus that has scraped the real services."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from bouchet_core.deployments import Job, Phase, Placement
from bouchet_core.figures import JobFigures, parse_figures
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.keys import metrics_key
from bouchet_core.ledger import JobEntry, JobSpan, SpanKind
from bouchet_core.store import Store

from tests.conftest import free_port, free_ports, start_redis
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.running_api import ADMIN_KEY, running
from tests.proxy.environment import (
    ALIAS,
    JOB,
    KEY,
    NODE_PORT,
    SLOTS,
    WINDOW,
    ProxyEnvironment,
    make_deployment,
    run_app,
    serve_model,
)
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
PROMETHEUS, ALERTS = ROOT / "deploy" / "prometheus" / "prometheus.yml", ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "bouchet.json"
# pages with the names of vLLM's metrics, by version
PAGES = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "vllm_pages").glob("*.txt"))}
COMPARISON = re.compile(r"\s*(==|>=|<=|>|<)\s*[0-9.]+\s*$")


def dashboard_queries() -> list[str]:
    """Return the queries of all panels."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return sorted({target["expr"] for panel in panels for target in panel["targets"]})


def alert_queries() -> list[tuple[str, str]]:
    """Return what alerts compare, and their texts: the comparison itself has no result while all is well."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return [(COMPARISON.sub("", rule["expr"]), rule["annotations"]["summary"]) for rule in rules]


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def ask(self, query: str) -> list[Any]:
        """Return the values that a query has now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, trust_env=False, verify=NO_TLS)
        body = answer.json()
        assert body["status"] == "success", (query, body)
        return list(body["data"]["result"])


def figures_of(version: str, page: str, grown: float) -> JobFigures:
    """Return the figures of a job that runs that version, its counters grown by that factor."""
    found = parse_figures(page, deployment="d-1", job=f"bouchet-{version}", at=datetime.now(UTC), model=f"m-{version}")
    assert found is not None, f"no metric of vLLM {version} is known"
    counters = {
        name: getattr(found, name) * grown + grown
        for name in ("prefix_queries", "prefix_hits", "prompt_tokens", "generation_tokens", "preemptions")
    }
    latencies = {
        name: (one := getattr(found, name)).model_copy(
            update={"counts": tuple(count * grown + grown for count in one.counts), "sum_s": one.sum_s * grown}
        )
        for name in ("first_token", "between_tokens")
    }
    finished = {reason: count + grown for reason, count in found.finished.items()}
    return found.model_copy(update={**counters, **latencies, "finished": finished})


def keep_growing(store: Store, stopping: threading.Event) -> None:
    """Store figures of all versions again and again, as the worker does."""
    grown = 1.0
    while not stopping.is_set():
        store.figures.put(figures_of(version, page, grown) for version, page in PAGES.items())
        grown += 1
        stopping.wait(0.5)


def fill(store: Store) -> None:
    """Store a deployment whose job has GPUs and an end, and GPU hours of today."""
    now = datetime.now(UTC)
    placement = Placement(partition="gpu_h200", gpus=2, gpu_type="h200", cpus=6, memory_gib=240, walltime_s=7200)
    job = Job(name=JOB, slot=0, phase=Phase.READY, window=WINDOW, node="node1", port=NODE_PORT, proves=True,
              placement=placement, since={Phase.STARTING: now, Phase.READY: now})  # fmt: skip
    store.create(make_deployment(jobs=(job,)))
    span = JobSpan(kind=SpanKind.SERVING, start=now - timedelta(minutes=1))
    store.ledger.append(
        [
            JobEntry(job="j", deployment="d", model="m", gpus=1, gpu_type="h200", charge_per_gpu_hour=300.0,
                     charge_unit="SU", version=1, spans=(span,))
        ]
    )  # fmt: skip


def send_requests(proxy_url: str) -> None:
    """Send a streamed request that succeeds and one that fails."""
    for model, stream in ((ALIAS, True), ("no-such-model", False)):
        body = {"model": model, "max_tokens": 5, "stream": stream, "messages": [{"role": "user", "content": "x"}]}
        httpx.post(f"{proxy_url}/v1/messages", json=body, headers={"x-api-key": KEY}, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Yield a Prometheus that scrapes a real API and a real proxy, with the project's own configuration."""
    directory = tmp_path_factory.mktemp("metrics")
    with contextlib.ExitStack() as stack:
        redis = start_redis(directory, free_port())
        stack.callback(redis.stop)
        store = stack.enter_context(contextlib.closing(redis.store()))
        base_port = free_ports(SLOTS)
        vllm = stack.enter_context(serve_model(base_port))
        fill(store)
        environment = ProxyEnvironment(directory, redis.port, redis.password, store, base_port, vllm)
        gateway = stack.enter_context(FakeGateway())
        gateway.tunnel |= {"reconnects": 1, "round_trip_ms": 12.5, "bytes_up": 10, "bytes_down": 20}
        api = stack.enter_context(running(directory, redis, gateway))
        proxy = stack.enter_context(run_app(environment))
        stopping = threading.Event()
        growing = threading.Thread(target=keep_growing, args=(store, stopping))
        growing.start()
        stack.callback(growing.join)
        stack.callback(stopping.set)
        wait_for(lambda: ALIAS in httpx.get(f"{proxy.url}/v1/models", headers={"x-api-key": KEY}).text)
        found = stack.enter_context(scraping(directory, api.url, proxy.url))
        wait_for(lambda: found.ask('up{job="bouchet-proxy"} == 1') and found.ask('up{job="bouchet-api"} == 1'))
        for _ in range(2):
            send_requests(proxy.url)
            wait_for_scrapes(found, 6)
        yield found


def wait_for_scrapes(prometheus: Prometheus, count: int) -> None:
    """Wait until Prometheus has read the services that many times more, together."""

    def scrapes() -> float:
        return float(prometheus.ask("sum(count_over_time(up[1h]))")[0]["value"][1])

    before = scrapes()
    wait_for(lambda: scrapes() >= before + count)


@contextlib.contextmanager
def scraping(directory: Path, api_url: str, proxy_url: str) -> Iterator[Prometheus]:
    """Run Prometheus with the project's configuration, over services on ports of the test."""
    program = shutil.which("prometheus")
    assert program, "prometheus is not installed; `make tools` installs it where it can"
    for name, key in (("metrics_key", metrics_key(ADMIN_KEY)), ("proxy_metrics_key", metrics_key(KEY))):
        (directory / name).touch(0o600)
        (directory / name).write_text(key)
    text = PROMETHEUS.read_text().replace("15s", "1s").replace("/run/secrets", str(directory))
    text = text.replace("api:4001", api_url.removeprefix("http://"))
    text = text.replace("proxy:4000", proxy_url.removeprefix("http://")).replace(
        "/etc/prometheus/alerts.yaml", str(ALERTS)
    )
    config, port = directory / "prometheus.yml", free_port()
    config.write_text(text)
    argv = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(lambda: _is_ready(url), 60)
            yield Prometheus(url)
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_pages_of_both_versions_are_there() -> None:
    assert set(PAGES) == {"0.19.1", "0.32.0"}


@pytest.mark.parametrize("query", dashboard_queries())
def test_query_of_the_dashboard_has_a_result(prometheus: Prometheus, query: str) -> None:
    found = wait_for(lambda: prometheus.ask(query))
    assert not any(math.isnan(float(one["value"][1])) for one in found), found


@pytest.mark.parametrize(("query", "text"), alert_queries())
def test_query_of_an_alert_has_a_result_with_the_labels_of_its_text(
    prometheus: Prometheus, query: str, text: str
) -> None:
    found = wait_for(lambda: prometheus.ask(query))
    labels = re.findall(r"\$labels\.(\w+)", text)
    assert found and all(one["metric"].get(label) for one in found for label in labels), found


@pytest.mark.parametrize("version", PAGES)
def test_every_metric_of_a_job_is_there_for_each_version(prometheus: Prometheus, version: str) -> None:
    names = (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total",
        "prefix_cache_hits_total", "num_preemptions_total", "prompt_tokens_total", "generation_tokens_total",
        "request_success_total", "time_to_first_token_seconds_count", "inter_token_latency_seconds_count",
    )  # fmt: skip
    for name in names:
        query = f'{{__name__="vllm:{name}", job="bouchet-{version}"}}'
        assert wait_for(lambda query=query: prometheus.ask(query)), query  # type: ignore[misc]


def test_rules_are_valid() -> None:
    program = shutil.which("promtool")
    assert program, "promtool is not installed; `make tools` installs it where it can"
    done = subprocess.run([program, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
