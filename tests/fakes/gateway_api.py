"""The gateway's internal API without a cluster: files from a dictionary, a tunnel in any state."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

TOKEN = "gateway-token-of-the-tests"
SINCE = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).isoformat()

# status, body and headers
Response = tuple[int, dict[str, Any] | bytes, dict[str, str]]


class FakeGateway:
    """A running gateway. Change `files`, `tunnel` and `down` while it runs; `answers` and `reads` record requests."""

    def __init__(self) -> None:
        self.reset()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def reset(self) -> None:
        """Return to the first state: the tunnel is up, and there are no files."""
        self.files: dict[str, bytes] = {}
        self.tunnel: dict[str, Any] = {"state": "up", "host": "login", "since": SINCE, "connections": 1}
        # reading files fails
        self.down = False
        # every GET fails
        self.mute = False
        self.reads: list[str] = []
        self.answers: list[list[str]] = []
        self.connects = 0

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def ask(self, prompt_id: str, *questions: str, echo: bool = False) -> None:
        """Open a login prompt, as for Duo."""
        prompt = {"id": prompt_id, "title": "Duo", "questions": questions, "echo": [echo] * len(questions)}
        self.tunnel = {"state": "needs_human", "host": "login", "since": SINCE, "prompt": prompt}

    def offer(self, fingerprint: str, *, changed: bool = False) -> None:
        """Refuse a host key that is not known, or has changed."""
        key = {"place": "login", "algorithm": "ssh-ed25519", "fingerprint": fingerprint, "changed": changed}
        self.tunnel = {"state": "refused", "host": "login", "since": SINCE, "detail": "unknown", "host_key": key}

    def _trust(self, fingerprint: str) -> Response:
        key = self.tunnel.get("host_key") or {}
        if key.get("fingerprint") != fingerprint or key.get("changed"):
            return problem(409, "host_key_not_trusted", f"the server's host key is {key.get('fingerprint')}")
        self.tunnel = {"state": "up", "host": "login", "since": SINCE, "connections": 1}
        return 202, {}, {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()

    def get(self, path: str, query: dict[str, list[str]]) -> Response:
        """Return the response to a GET."""
        if self.mute:
            return problem(503, "cluster_unavailable", "not now")
        if path == "/v1/status":
            return 200, self.tunnel, {}
        if self.down:
            return problem(503, "tunnel_down", "no SSH connection; trying again in 4 s")
        name, offset = query["path"][0], int(query["offset"][0])
        self.reads.append(name)
        if name not in self.files:
            return problem(404, "file_missing", f"no file {name}")
        whole = self.files[name]
        begin = offset if offset >= 0 else max(0, len(whole) + offset)
        return 200, whole[begin : begin + int(query["max_bytes"][0])], {"X-File-Size": str(len(whole))}

    def post(self, path: str, body: dict[str, Any]) -> Response:
        """Return the response to a POST."""
        if path == "/v1/connect":
            self.connects += 1
            return 202, {}, {}
        if path == "/v1/trust":
            return self._trust(body["fingerprint"])
        prompt = self.tunnel.get("prompt")
        if prompt is None or prompt["id"] != body["prompt_id"]:
            return problem(409, "stale_prompt", "that prompt is no longer open")
        self.answers.append(body["responses"])
        self.tunnel = {"state": "up", "host": "login", "since": SINCE, "connections": 1}
        return 202, {}, {}


def problem(status: int, kind: str, detail: str) -> Response:
    """Return an error response as the gateway sends it."""
    return status, {"type": "about:blank", "status": status, "detail": detail, "kind": kind}, {}


def _handler(gateway: FakeGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            self._respond(*gateway.get(url.path, parse_qs(url.query)))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._respond(*gateway.post(self.path, json.loads(body or b"{}")))

        def _respond(self, status: int, body: dict[str, Any] | bytes, headers: dict[str, str]) -> None:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, body, headers = problem(401, "unauthorized", "wrong token")
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler
