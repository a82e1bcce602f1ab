"""Server authentication: the guard proves that it holds the job's key, to the probe on the node and to the worker."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from bouchet_core.deployments import Job, Phase
from bouchet_core.gateway_client import NO_TLS
from bouchet_core.keys import new_nonce, proves, serving_key
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.observation import HealthStatus

from tests.remote.compute_node import SCRIPTS

SECRET, NAME = "serving-secret", "bouchet-aa-1"
KEY = serving_key(SECRET, NAME)
METRICS = b'vllm:num_requests_running{engine="0"} 0.0\nvllm:generation_tokens_total{engine="0"} 12\n'


async def vllm(scope: Any, receive: Any, send: Any) -> None:
    """Answer the paths that are probed."""
    bodies = {"/metrics": METRICS, "/version": b'{"version": "0.32.0"}', "/health": b""}
    body = bodies.get(scope["path"], b'{"data": [{"max_model_len": 4096}]}')
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """Serve behind the real guard; yield the port."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setenv("BOUCHET_DRAIN_FILE", str(tmp_path / "drain"))
    # its modules are staged beside it
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("guard", SCRIPTS / "guard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = uvicorn.Server(uvicorn.Config(module.Guard(vllm), port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@contextmanager
def other_server(proof: Callable[[str], str]) -> Iterator[tuple[int, list[str]]]:
    """Run a server that answers everything with 200; yield its port and the keys that it receives."""
    sent: list[str] = []

    class OtherServer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

        def do_GET(self) -> None:
            sent.extend(self.headers.get_all("authorization") or [])
            self.send_response(200)
            self.send_header("x-bouchet-proof", proof(self.headers["x-bouchet-nonce"] or ""))
            self.send_header("content-length", str(len(METRICS)))
            self.end_headers()
            self.wfile.write(METRICS)

    with ThreadingHTTPServer(("127.0.0.1", 0), OtherServer) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1], sent
        server.shutdown()


def job(port: int, **facts: Any) -> Job:
    return Job(name=NAME, slot=0, port=port, proves=True, phase=Phase.STARTING).model_copy(update=facts)


def probed_on_node(tmp_path: Path, port: int) -> str:
    (tmp_path / "key").write_text(f"{KEY}\n")
    spec = {"version": 1, "root": "/r", "models_dir": "/m", "image": "/i"}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    argv = [sys.executable, str(SCRIPTS / "probe_vllm.py"), "probe", str(tmp_path), str(port), str(tmp_path)]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.fixture
def probe_of() -> Iterator[Callable[[int], SlotProbe]]:
    made: list[SlotProbe] = []

    def make(port: int) -> SlotProbe:
        made.append(SlotProbe("127.0.0.1", port, SECRET))
        return made[-1]

    yield make
    for probe in made:
        probe.close()


def test_server_with_the_jobs_key_is_healthy(
    guarded: int, tmp_path: Path, probe_of: Callable[[int], SlotProbe]
) -> None:
    health = probe_of(guarded).health(job(guarded))
    assert (health.status, health.window, health.vllm_version) == (HealthStatus.HEALTHY, 4096, "0.32.0")
    assert probed_on_node(tmp_path, guarded) == "ok 12"


def test_probe_uses_no_proxy_of_the_environment(
    guarded: int, probe_of: Callable[[int], SlotProbe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    probe = probe_of(guarded)
    assert probe.is_healthy(job(guarded))
    with probe.client(job(guarded)) as client:
        assert client.get("/version").is_success


def test_draining_server_with_the_jobs_key_is_draining(
    guarded: int, tmp_path: Path, probe_of: Callable[[int], SlotProbe]
) -> None:
    (tmp_path / "drain").touch()
    assert probe_of(guarded).health(job(guarded)).status is HealthStatus.DRAINING


@pytest.mark.parametrize("proof", [lambda nonce: "", lambda nonce: "0" * 64, lambda nonce: nonce, lambda nonce: "é"])
def test_other_server_on_the_port_is_failing_and_gets_no_key(
    tmp_path: Path, probe_of: Callable[[int], SlotProbe], proof: Callable[[str], str]
) -> None:
    with other_server(proof) as (port, sent):
        health = probe_of(port).health(job(port))
        assert (health.status, health.wrong_server) == (HealthStatus.FAILING, True)
        assert probed_on_node(tmp_path, port) == "failing -"
    assert sent == []


def test_server_that_relays_the_nonce_is_rejected(
    guarded: int, tmp_path: Path, probe_of: Callable[[int], SlotProbe]
) -> None:
    def relay(nonce: str) -> str:
        answer = httpx.get(
            f"http://127.0.0.1:{guarded}/health", headers={"x-bouchet-nonce": nonce}, timeout=30, verify=NO_TLS
        )
        return answer.headers["x-bouchet-proof"]

    with other_server(relay) as (port, sent):
        assert probe_of(port).health(job(port)).wrong_server
        assert probed_on_node(tmp_path, port) == "failing -"
    assert sent == []


def test_job_of_older_scripts_needs_no_proof(probe_of: Callable[[int], SlotProbe]) -> None:
    with other_server(lambda nonce: "") as (port, _):
        assert probe_of(port).health(job(port, proves=False)).status is HealthStatus.HEALTHY


def test_proof_is_valid_for_one_nonce_port_and_key(guarded: int) -> None:
    nonce, other = new_nonce(), new_nonce()
    assert nonce != other
    answer = httpx.get(
        f"http://127.0.0.1:{guarded}/health", headers={"x-bouchet-nonce": nonce}, timeout=30, verify=NO_TLS
    )
    proof = answer.headers["x-bouchet-proof"]
    assert proves(KEY, nonce, guarded, proof)
    assert not proves(KEY, other, guarded, proof)
    assert not proves(KEY, nonce, guarded + 1, proof)
    assert not proves("k" * 64, nonce, guarded, proof)
    assert not proves(KEY, nonce, guarded, None)


@pytest.mark.parametrize("nonce", ["", "x", "a" * 31, "a" * 33, "A" * 32, "bouchet-proof 1 " + "a" * 16])
def test_invalid_nonce_gets_no_proof(guarded: int, nonce: str) -> None:
    answer = httpx.get(
        f"http://127.0.0.1:{guarded}/health", headers={"x-bouchet-nonce": nonce}, timeout=30, verify=NO_TLS
    )
    assert answer.status_code == 200 and "x-bouchet-proof" not in answer.headers
