"""The demo's launch against a small real HTTP server that plays the api and the proxy."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.staging import PINS
from setup import demo
from setup.docker.engine import Compose
from setup.docker.stack import Stack
from setup.errors import ApiResponseError, LaunchFailedError
from setup.files.env_file import EnvSettings
from setup.http import HttpClient
from setup.progress import Progress

ROOT = Path(__file__).parents[2]
KEY = "the-key"


def record(phase: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "d-1",
        "names": ["small", demo.DEMO_MODEL],
        "model": demo.DEMO_MODEL,
        "phase": phase,
        "jobs": [],
        **more,
    }


class Script:
    """Answers in order, the last one again and again; and what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, Any]] = []

    def take(self, line: str) -> tuple[int, Any]:
        queue = self.answers.get(line, [(404, {"title": f"nothing for {line}"})])
        return queue.pop(0) if len(queue) > 1 else queue[0]


@pytest.fixture
def script() -> Script:
    """Return the scripted answers."""
    return Script()


@pytest.fixture
def client(script: Script) -> Iterator[HttpClient]:
    """Yield a client of the scripted API."""

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            assert self.headers["Authorization"] == f"Bearer {KEY}"
            line = f"{self.command} {self.path}"
            script.asked.append((line, body))
            status, answer = script.take(line)
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = do

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield HttpClient(f"http://127.0.0.1:{server.server_address[1]}", KEY)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def progress() -> Iterator[Progress]:
    """Into the void."""
    with Progress(io.StringIO()) as progress:
        yield progress


def test_ensure_deployment_uses_live_one(script: Script, client: HttpClient, progress: Progress) -> None:
    script.answers["GET /v1/deployments?live=true"] = [(200, {"deployments": [record("ready")]})]
    assert demo.ensure_deployment(progress, client).alias == "small"
    assert [line for line, _ in script.asked] == ["GET /v1/deployments?live=true"]


def test_ensure_deployment_launches_and_waits(script: Script, client: HttpClient, progress: Progress) -> None:
    script.answers["GET /v1/deployments?live=true"] = [(200, {"deployments": [record("draining")]})]
    script.answers["POST /v1/deployments"] = [(202, record("requested"))]
    script.answers["GET /v1/deployments/d-1"] = [(200, record("queued")), (503, {}), (200, record("ready"))]
    assert demo.ensure_deployment(progress, client).phase == "ready"
    assert ("POST /v1/deployments", {"model": demo.DEMO_MODEL}) in script.asked


def test_ensure_deployment_ended_raises_reason(script: Script, client: HttpClient, progress: Progress) -> None:
    script.answers["GET /v1/deployments?live=true"] = [(200, {"deployments": []})]
    script.answers["POST /v1/deployments"] = [(202, record("requested"))]
    script.answers["GET /v1/deployments/d-1"] = [(200, record("ended", ending="failed", reason="no GPU left"))]
    with pytest.raises(LaunchFailedError, match=r"failed: no GPU left \(`./bouchet logs d-1`"):
        demo.ensure_deployment(progress, client)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"title": "UnauthorizedError", "detail": "wrong key"}, "wrong key"),
        ({"error": {"type": "x", "message": "no such model"}}, "no such model"),
        ("plain", "status 401: plain"),
    ],
)
def test_ensure_deployment_refusal_repeats_detail(
    script: Script, client: HttpClient, progress: Progress, body: Any, detail: str
) -> None:
    script.answers["GET /v1/deployments?live=true"] = [(401, body)]
    with pytest.raises(ApiResponseError, match=detail):
        demo.ensure_deployment(progress, client)


def test_http_client_without_server_returns_detail() -> None:
    answer = HttpClient("http://127.0.0.1:1", KEY).ask("GET", "/healthz", timeout_s=2)
    assert answer.status == 0 and "no answer" in answer.detail


def test_ask_model_retries_until_proxy_serves(script: Script, client: HttpClient, progress: Progress) -> None:
    busy = {"type": "error", "error": {"type": "overloaded_error", "message": "starting"}}
    script.answers["POST /v1/messages"] = [(529, busy), (200, {"content": [{"type": "text", "text": " Paris. "}]})]
    script.answers["GET /v1/deployments?live=true"] = [(200, {"deployments": [record("ready")]})]
    assert demo.ask_model(progress, client, client, demo.parse_deployment(record("ready"))) == "Paris."
    assert script.asked[0][1]["model"] == "small"


def test_ask_model_ended_deployment_launches_again(script: Script, client: HttpClient, progress: Progress) -> None:
    refused = {"type": "error", "error": {"type": "overloaded_error", "message": "no connection to the node"}}
    script.answers["POST /v1/messages"] = [(529, refused), (200, {"content": [{"type": "text", "text": "Paris."}]})]
    script.answers["GET /v1/deployments?live=true"] = [(200, {"deployments": []})]
    script.answers["POST /v1/deployments"] = [(202, record("requested"))]
    assert demo.ask_model(progress, client, client, demo.parse_deployment(record("ready"))) == "Paris."
    assert ("POST /v1/deployments", {"model": demo.DEMO_MODEL}) in script.asked


def test_stop_all_cancels_and_waits(script: Script, client: HttpClient) -> None:
    live = (200, {"deployments": [record("ready")]})
    script.answers["GET /v1/deployments?live=true"] = [live, live, (200, {"deployments": []})]
    demo.stop_all(client)
    assert [line for line, _ in script.asked].count("DELETE /v1/deployments/d-1") == 1


def test_stop_all_without_api_does_nothing() -> None:
    demo.stop_all(HttpClient("http://127.0.0.1:1", KEY))


def test_render_curl_does_not_show_key() -> None:
    text = demo.render_curl("http://127.0.0.1:4000", Path("/some/where/.env"), "small")
    assert text.splitlines()[0] == ". ./.env"
    assert "$BOUCHET_API_KEY" in text
    assert json.loads(text.split("-d '")[1].rstrip("'")) == demo.question_body("small")


def test_http_client_repr_hides_key() -> None:
    assert KEY not in repr(HttpClient("http://x", KEY))


@pytest.mark.parametrize(
    ("values", "cpu", "site"),
    [
        ({}, "x86_64", "demo"),
        ({}, "aarch64", "demo-arm64"),
        ({"BOUCHET_SITE": "demo"}, "aarch64", "demo-arm64"),
        ({"BOUCHET_SITE": "demo-arm64"}, "x86_64", "demo"),
        ({"BOUCHET_SITE": "mine"}, "aarch64", "mine"),
        ({"BOUCHET_HOST": "hpc"}, "aarch64", "bouchet"),
    ],
)
def test_demo_takes_the_site_file_for_the_engines_cpu(values: dict[str, str], cpu: str, site: str) -> None:
    assert demo.with_site_for(EnvSettings(values), cpu).site == site


def test_site_files_of_the_demo_differ_in_name_cpu_and_image_alone() -> None:
    texts = {cpu: (ROOT / "sites" / f"{name}.yaml").read_text() for cpu, name in demo.SITES.items()}
    sites = {cpu: yaml.safe_load(text) for cpu, text in texts.items()}
    for cpu, pin in PINS.items():
        assert sites[cpu]["default_image"] == pin and [image["pin"] for image in sites[cpu]["images"]] == [pin]
        assert sites[cpu].get("cpu_arch", "x86_64") == cpu and sites[cpu]["name"] == demo.SITES[cpu]
    other = {"name", "title", "cpu_arch", "default_image", "images"}
    kept = [{name: value for name, value in site.items() if name not in other} for site in sites.values()]
    assert kept[0] == kept[1]
    comments = [[line for line in text.splitlines()[6:] if line.startswith("#")] for text in texts.values()]
    assert comments[0] == comments[1]


@pytest.mark.parametrize("cpu", PINS)
def test_staging_gets_the_cpu_of_the_nodes(cpu: str, tmp_path: Path) -> None:
    """A module in the place of demo.provision prints what it was given."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "provision.py").write_text(
        "import os, pathlib\npathlib.Path('cpu').write_text(os.environ['DEMO_CPU'])\n"
    )
    stack = Stack(tmp_path, "bouchet", tmp_path / ".env", {})
    with Progress(io.StringIO()) as progress:
        demo.stage(progress, stack, Compose(("compose",), {"BOUCHET_SITE": demo.SITES[cpu]}))
    assert (tmp_path / "cpu").read_text() == cpu
