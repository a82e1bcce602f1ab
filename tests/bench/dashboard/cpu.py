"""What API, worker and proxy cost while people look at the dashboard, and while no page is open.

All are the real processes over a real Redis, and the page is open in tabs of a real Chromium. Slurm is a fake whose
jobs are model servers behind the job's real guard. `python -m tests.bench.dashboard.cpu` measures this alone.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase, Traits
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.keys import serving_key
from bouchet_core.policy import Policy
from bouchet_core.store import Store
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.bench.figures import Figure, render
from tests.browser.conftest import sign_in
from tests.fakes.vllm.guarded import serve_guarded
from tests.fakes.vllm.server import FakeVLLM
from tests.proxy.environment import KEY, SERVING_SECRET
from tests.service.running import MODEL, NODE_PORT, SLOTS
from tests.soak.hand_over import ADMIN_KEY, CountingCluster, House, service
from tests.waiting import wait_for

TABS, STREAMS = 3, 20
# of each stream
TOKENS_PER_S = 30
WATCHED_S, SETTLE_S, READY_S = 30.0, 20.0, 180.0
MOST_WATCHED, MOST_UNWATCHED = 10.0, 2.0
WINDOW = 200_000
# what a real page has beside what is read: some twenty histograms
OTHER_HISTOGRAMS, BUCKETS = 20, 25


class WatchedCluster(CountingCluster):
    """Gives each deployment a server with its own name, and a page of metrics as long as a real one."""

    def _open(self, job: Job) -> None:
        names = next(record.names for record in self.store.live() if record.attempt(job.name) is not None)
        key = serving_key(SERVING_SECRET, job.name)
        vllm = FakeVLLM(names, key, WINDOW, node_port=NODE_PORT, metrics=lambda: metrics_page(len(vllm.requests)))
        opened = ExitStack()
        opened.enter_context(serve_guarded(vllm, self.base_port + job.slot))
        self.servers[job.name] = vllm, opened


def metrics_page(number: int) -> str:
    """Return a page of vLLM's metrics; number: what its counters have counted."""
    label = 'engine="0",model_name="org/model"'
    counted = int(time.monotonic() * 500) + number
    lines = [f"vllm:num_requests_running{{{label}}} 5.0", f"vllm:kv_cache_usage_perc{{{label}}} 0.31"]
    lines += [f"vllm:{name}{{{label}}} {counted}" for name in ("generation_tokens_total", "prompt_tokens_total")]
    others = [f"request_part_{index}_seconds" for index in range(OTHER_HISTOGRAMS)]
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds", *others):
        bounds = [*(f"{0.001 * 1.5**index:.4f}" for index in range(BUCKETS)), "+Inf"]
        lines += [f"# HELP vllm:{name} Histogram of it.", f"# TYPE vllm:{name} histogram"]
        lines += [f'vllm:{name}_bucket{{{label},le="{bound}"}} {counted * n}' for n, bound in enumerate(bounds)]
        lines += [f"vllm:{name}_count{{{label}}} {counted * BUCKETS}", f"vllm:{name}_sum{{{label}}} {counted / 9}"]
    return "\n".join([*lines, ""])


@dataclass
class Streams:
    """Clients that stream one long answer after another. received: bytes of all."""

    url: str
    received: int = 0
    problems: list[str] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        """Stream until stopped."""
        text = f"SAY[{'word ' * 20 * TOKENS_PER_S}] PACE[{1 / TOKENS_PER_S:.4f}]"
        body = {"model": f"watched-{number % SLOTS}", "max_tokens": 50_000, "stream": True}
        body["messages"] = [{"role": "user", "content": text}]
        headers = {"x-api-key": KEY, "x-claude-code-session-id": f"session-{number}"}
        with httpx.Client(verify=NO_TLS, timeout=60, headers=headers) as http:
            while not self._stopping.is_set():
                with http.stream("POST", f"{self.url}/v1/messages", json=body) as answer:
                    if not answer.is_success:
                        self.problems.append(answer.read().decode()[-300:])
                        return
                    for piece in answer.iter_raw():
                        self.received += len(piece)
                        if self._stopping.is_set():
                            break

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run all of them."""
        threads = [threading.Thread(target=self.run, args=(number,)) for number in range(STREAMS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()


def watch_dashboard() -> list[Figure]:
    """Measure all of it."""
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), WatchedCluster) as (house, store, _, url):
        for number in range(SLOTS):
            create(store, number)
        wait_for(lambda: sum(one.phase is Phase.READY for one in store.live()) == SLOTS, READY_S)
        time.sleep(SETTLE_S)
        unwatched = cpu_shares(house, WATCHED_S)
        streams = Streams(url)
        with streams.running():
            time.sleep(SETTLE_S)
            alone = cpu_shares(house, WATCHED_S)
            with open_browser() as browser:
                for _ in range(TABS):
                    open_tab(browser, house)
                time.sleep(SETTLE_S)
                before = streams.received
                watched = cpu_shares(house, WATCHED_S)
                rate = (streams.received - before) / WATCHED_S
        assert not streams.problems, streams.problems[:3]
    title = f"CPU of API, worker and proxy, {SLOTS} deployments, "
    sent = f"{rate / 1000:.0f} kB/s of streams"
    return [
        figure(title + f"{STREAMS} streams, the dashboard in {TABS} tabs", watched, MOST_WATCHED, sent),
        figure(title + f"{STREAMS} streams, no page open", alone, None),
        figure(title + "no page open", unwatched, MOST_UNWATCHED),
    ]


def create(store: Store, number: int) -> None:
    """Create a deployment as the API does."""
    now = datetime.now(UTC)
    request = LaunchRequest(model=MODEL, time="06:00:00", partition="gpu_h200", idle_timeout_min=600)
    record = Deployment(
        id=f"watched{number}",
        model=MODEL,
        names=(f"watched-{number}",),
        request=request,
        created_at=now,
        updated_at=now,
        policy=Policy(keep="forever"),
        traits=Traits(max_output=60_000),
    )
    store.create(record)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium without a window."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "Chromium is not installed; `make tools` installs it where it can"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


def open_tab(browser: Browser, house: House) -> Page:
    """Open the dashboard in a window of its own, and wait until it shows everything."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"http://127.0.0.1:{house.commands['api'][1]['API_PORT']}/")
    sign_in(page, ADMIN_KEY)
    expect(page.get_by_role("article")).to_have_count(SLOTS, timeout=60_000)
    return page


def cpu_shares(house: House, seconds: float) -> dict[str, float]:
    """Measure how many per cent of a core each process uses over that time."""
    assert house.proxy_pid is not None
    pids = {**{name: house.processes[name].pid for name in ("api", "worker")}, "proxy": house.proxy_pid}
    before, began = {name: cpu_s(pid) for name, pid in pids.items()}, time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    return {name: (cpu_s(pid) - before[name]) / passed * 100 for name, pid in pids.items()}


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def figure(title: str, shares: dict[str, float], target: float | None, note: str = "") -> Figure:
    """Return a figure of the sum, with its parts beside it."""
    parts = ", ".join(f"{name} {share:.1f} %" for name, share in shares.items())
    return Figure(title, sum(shares.values()), "% of a core", target, "; ".join(filter(None, (parts, note))))


def main() -> int:
    """Measure and print; return 1 if a target is missed."""
    figures = watch_dashboard()
    print(render(figures))
    return 0 if all(one.is_met for one in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
