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

from setup import demo_launch as launch
from setup.errors import ApiResponseError, LaunchFailedError
from setup.http import Door
from setup.progress import Progress

KEY = "the-key"


def record(phase: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "d-1",
        "names": ["small", launch.DEMO_MODEL],
        "model": launch.DEMO_MODEL,
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
    """What the server says."""
    return Script()


@pytest.fixture
def door(script: Script) -> Iterator[Door]:
    """A door to it."""

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
    yield Door(f"http://127.0.0.1:{server.server_address[1]}", KEY)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def progress() -> Iterator[Progress]:
    """Into the void."""
    with Progress(io.StringIO()) as progress:
        yield progress


def test_a_live_deployment_is_used(script: Script, door: Door, progress: Progress) -> None:
    script.answers["GET /v1/deployments?live=true"] = [(200, {"deployments": [record("ready")]})]
    assert launch.ensure_deployment(progress, door).alias == "small"
    assert [line for line, _ in script.asked] == ["GET /v1/deployments?live=true"]


def test_none_is_launched_and_followed(script: Script, door: Door, progress: Progress) -> None:
    script.answers["GET /v1/deployments?live=true"] = [(200, {"deployments": [record("draining")]})]
    script.answers["POST /v1/deployments"] = [(202, record("requested"))]
    script.answers["GET /v1/deployments/d-1"] = [(200, record("queued")), (503, {}), (200, record("ready"))]
    assert launch.ensure_deployment(progress, door).phase == "ready"
    assert ("POST /v1/deployments", {"model": launch.DEMO_MODEL}) in script.asked


def test_an_end_repeats_the_reason(script: Script, door: Door, progress: Progress) -> None:
    script.answers["GET /v1/deployments?live=true"] = [(200, {"deployments": []})]
    script.answers["POST /v1/deployments"] = [(202, record("requested"))]
    script.answers["GET /v1/deployments/d-1"] = [(200, record("ended", ending="failed", reason="no GPU left"))]
    with pytest.raises(LaunchFailedError, match=r"failed: no GPU left \(`./bouchet logs d-1`"):
        launch.ensure_deployment(progress, door)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"title": "UnauthorizedError", "detail": "wrong key"}, "wrong key"),
        ({"error": {"type": "x", "message": "no such model"}}, "no such model"),
        ("plain", "status 401: plain"),
    ],
)
def test_a_refusal_repeats_the_other_side(
    script: Script, door: Door, progress: Progress, body: Any, words: str
) -> None:
    script.answers["GET /v1/deployments?live=true"] = [(401, body)]
    with pytest.raises(ApiResponseError, match=words):
        launch.ensure_deployment(progress, door)


def test_nobody_there_is_a_sentence() -> None:
    answer = Door("http://127.0.0.1:1", KEY).ask("GET", "/healthz", timeout_s=2)
    assert answer.status == 0 and "no answer" in answer.detail


def test_the_model_is_asked_until_the_proxy_knows_it(script: Script, door: Door, progress: Progress) -> None:
    busy = {"type": "error", "error": {"type": "overloaded_error", "message": "starting"}}
    script.answers["POST /v1/messages"] = [(529, busy), (200, {"content": [{"type": "text", "text": " Paris. "}]})]
    script.answers["GET /v1/deployments?live=true"] = [(200, {"deployments": [record("ready")]})]
    assert launch.ask_model(progress, door, door, launch.parse_deployment(record("ready"))) == "Paris."
    assert script.asked[0][1]["model"] == "small"


def test_a_job_that_died_unseen_is_launched_anew(script: Script, door: Door, progress: Progress) -> None:
    refused = {"type": "error", "error": {"type": "overloaded_error", "message": "no connection to the node"}}
    script.answers["POST /v1/messages"] = [(529, refused), (200, {"content": [{"type": "text", "text": "Paris."}]})]
    script.answers["GET /v1/deployments?live=true"] = [(200, {"deployments": []})]
    script.answers["POST /v1/deployments"] = [(202, record("requested"))]
    assert launch.ask_model(progress, door, door, launch.parse_deployment(record("ready"))) == "Paris."
    assert ("POST /v1/deployments", {"model": launch.DEMO_MODEL}) in script.asked


def test_stopping_cancels_each_and_waits_for_the_record(script: Script, door: Door) -> None:
    live = (200, {"deployments": [record("ready")]})
    script.answers["GET /v1/deployments?live=true"] = [live, live, (200, {"deployments": []})]
    launch.stop_all(door)
    assert [line for line, _ in script.asked].count("DELETE /v1/deployments/d-1") == 1


def test_stopping_without_an_api_is_no_error() -> None:
    launch.stop_all(Door("http://127.0.0.1:1", KEY))


def test_the_curl_line_reads_the_key_and_does_not_show_it() -> None:
    text = launch.render_curl("http://127.0.0.1:4000", Path("/some/where/.env"), "small")
    assert text.splitlines()[0] == ". ./.env"
    assert "$BOUCHET_API_KEY" in text
    assert json.loads(text.split("-d '")[1].rstrip("'")) == launch.question_body("small")


def test_a_key_is_in_no_repr() -> None:
    assert KEY not in repr(Door("http://x", KEY))
