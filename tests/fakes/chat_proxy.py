"""A fake proxy that streams /v1/chat/completions as OpenAI does, piece by piece."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class ChatProxy:
    """A running proxy. `answer` has the pieces of its next answer, after `thoughts`, with a pause after each.

    A `status` other than 200 answers with an error. `requests`, `keys` and `paths` have what it received.
    """

    def __init__(self) -> None:
        self.reset()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def reset(self) -> None:
        """Restore the defaults, and forget what was received."""
        self.answer = ["Hello", " there", "\x1b[2J!"]
        self.thoughts: list[str] = []
        self.pause_s = 0.0
        self.status = 200
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Its port."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(proxy: ChatProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'"I am alive"' if self.path == "/health/liveliness" else b"<html>"
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            proxy.requests.append(json.loads(body))
            proxy.keys.append(self.headers.get("Authorization"))
            proxy.paths.append(self.path)
            self.send_response(proxy.status)
            self.send_header("Content-Type", "text/event-stream" if proxy.status == 200 else "application/json")
            self.end_headers()
            if proxy.status != 200:
                self.wfile.write(json.dumps({"error": {"message": "it is queued: try again"}}).encode())
                return
            self._stream()

        def _stream(self) -> None:
            try:
                deltas = [{"reasoning_content": piece} for piece in proxy.thoughts]
                for delta in [*deltas, *({"content": piece} for piece in proxy.answer)]:
                    chunk = {"choices": [{"index": 0, "delta": delta}]}
                    self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                    self.wfile.flush()
                    time.sleep(proxy.pause_s)
                self.wfile.write(b"data: [DONE]\n\n")
            except (BrokenPipeError, ConnectionResetError):
                return

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler
