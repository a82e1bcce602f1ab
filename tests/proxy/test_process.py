"""The proxy's process: idle after each kind of request, and on the event loop that it is meant to run on."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bouchet_core.deployments import Phase
from bouchet_proxy.__main__ import serve

from tests.bench.clients import Way, one_by_one, requests_per_s, side_by_side
from tests.bench.peers import bench_model
from tests.conftest import free_port
from tests.fakes.vllm.server import FakeVLLM, serve_vllm
from tests.proxy.client import (
    COMPLETIONS,
    COUNT,
    HTTP,
    MESSAGES,
    OWNER,
    RESPONSES,
    chat_body,
    get,
    post,
    wait_for_status,
)
from tests.proxy.environment import (
    ALIAS,
    KEY,
    MODEL,
    ProxyEnvironment,
    RunningProxy,
    make_deployment,
    run_direct_process,
    serve_model,
)
from tests.proxy.process import mount
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
SAMPLE_S, MAX_IDLE_SHARE = 1.5, 0.1
PROMPT = {"model": ALIAS, "max_tokens": 9, "prompt": "SAY[a]"}
INPUT = {"model": ALIAS, "input": "SAY[a]"}


@pytest.fixture(scope="module")
def process(environment: ProxyEnvironment) -> Iterator[RunningProxy]:
    record = environment.store.create(make_deployment())
    with run_direct_process(environment) as proxy:
        wait_for_status(proxy, 200)
        yield proxy
    environment.move(record.id, Phase.ENDED)


def cpu_s(pid: int | None) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def idle_share(proxy: RunningProxy) -> float:
    """Return the share of a core that the process uses while nothing is asked of it."""
    time.sleep(0.2)
    before = cpu_s(proxy.pid)
    time.sleep(SAMPLE_S)
    return (cpu_s(proxy.pid) - before) / SAMPLE_S


def abort_stream(proxy: RunningProxy) -> None:
    body = chat_body(f"SAY[{'a ' * 500}] PACE[0.3]", stream=True)
    with HTTP.stream("POST", proxy.url + MESSAGES, json=body, headers=OWNER) as response:
        assert response.status_code == 200


def passthrough(proxy: RunningProxy) -> None:
    assert get(proxy, f"/passthrough/{ALIAS}/version").status_code == 200


REQUESTS: dict[str, Callable[[RunningProxy], object]] = {
    "messages": lambda proxy: post(proxy, MESSAGES, chat_body("SAY[a]")),
    "messages streamed": lambda proxy: post(proxy, MESSAGES, chat_body("SAY[a]", stream=True)),
    "count": lambda proxy: post(proxy, COUNT, chat_body("x")),
    "completions": lambda proxy: post(proxy, COMPLETIONS, PROMPT),
    "responses streamed": lambda proxy: post(proxy, RESPONSES, {**INPUT, "stream": True}),
    "models": lambda proxy: get(proxy, "/v1/models"),
    "unknown model": lambda proxy: post(proxy, MESSAGES, chat_body("x", model="gpt-99")),
    "passthrough GET": passthrough,
    "aborted stream": abort_stream,
}


@pytest.mark.parametrize(
    "kind", [kind if kind == "aborted stream" else pytest.param(kind, marks=pytest.mark.slow) for kind in REQUESTS]
)
def test_process_after_a_request_is_idle(process: RunningProxy, kind: str) -> None:
    REQUESTS[kind](process)
    assert idle_share(process) < MAX_IDLE_SHARE


def test_serve_on_another_event_loop_is_refused(environment: ProxyEnvironment) -> None:
    # so the process of these tests runs on uvloop
    with pytest.raises(AssertionError):
        asyncio.run(serve(environment.settings(free_port()), mount))


def open_sockets(proxy: RunningProxy, port: int) -> list[str]:
    """Return the states (hexadecimal, as in /proc/net/tcp) of the process's sockets that lead to that port."""
    inodes = {str(one.readlink()) for one in Path(f"/proc/{proxy.pid}/fd").iterdir() if one.is_symlink()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[3] for row in rows if row[2].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in inodes]


def test_connection_whose_server_has_ended_is_closed(process: RunningProxy) -> None:
    port = process.environment.slot_base_port + 1
    with serve_model(port, "brief", MODEL):
        record = process.environment.store.create(make_deployment("brief", "org/Brief", slot=1))
        wait_for(lambda: get(process, "/passthrough/brief/version").status_code == 200)
        assert open_sockets(process, port)
    wait_for(lambda: not open_sockets(process, port), 10)
    process.environment.move(record.id, Phase.ENDED)


@pytest.fixture
def bench(process: RunningProxy) -> Iterator[Way]:
    """Serve a deployment with the bench's model, as `make bench` measures it."""
    record = process.environment.store.create(make_deployment("bench", "org/Bench", slot=2))
    wait_for(lambda: "bench" in get(process, "/v1/models").text)
    yield Way("ours", process.url, KEY, "bench", process.pid)
    process.environment.move(record.id, Phase.ENDED)


def bench_body(events: int) -> bytes:
    return json.dumps(chat_body(f"EVENTS[{events},0]", model="bench", stream=True)).encode()


@pytest.mark.slow
async def test_bench_measures_whole_answers(bench: Way, process: RunningProxy) -> None:
    with bench_model(process.environment.slot_base_port + 2):
        assert len(await one_by_one(bench, bench_body(1), 3)) == 3
        assert len(await side_by_side(bench, bench_body(50), 4)) == 200
        assert await requests_per_s(bench, bench_body(1), 2, 0.3) > 0


@pytest.mark.slow
async def test_bench_of_a_model_without_a_proof_fails(bench: Way, process: RunningProxy) -> None:
    other_server = serve_vllm(FakeVLLM(("bench",), "another key"), process.environment.slot_base_port + 2)
    with other_server, pytest.raises(AssertionError, match="0 of 1 events"):
        await one_by_one(bench, bench_body(1), 1)


def test_request_of_the_readme_is_answered(process: RunningProxy, tmp_path: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    shown = next(block for block in blocks if "curl" in block)
    (tmp_path / ".env").write_text(f"BOUCHET_API_KEY={KEY}\n")
    script = shown.replace("http://127.0.0.1:4000", process.url).replace("bouchet-smollm2", ALIAS)
    assert process.url in script and ALIAS in script
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=90, check=True)
    answer = json.loads(done.stdout)
    assert (answer["type"], answer["role"]) == ("message", "assistant") and answer["content"][0]["text"]
