"""A small HTTP server that messages are sent to, with the faults of real ones: it hangs, fails, redirects, trickles."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET_PATH = "hook-0123456789abcdef"
USER, PASSWORD = "researcher", "pass-of-the-receiver"


@dataclass
class Receiver:
    """What was received, and how to answer. mode: ok, hang, trickle, redirect, or an HTTP status."""

    port: int = 0
    mode: str = "ok"
    messages: list[dict[str, Any]] = field(default_factory=list)
    # paths that were asked for, in any mode
    paths: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """The URL for NOTIFY_URLS, with a secret in each part that may have one."""
        return f"json://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{SECRET_PATH}"

    @property
    def titles(self) -> list[str]:
        """The titles of what was received."""
        return [str(one["title"]) for one in self.messages]


@contextmanager
def running_receiver(host: str = "127.0.0.1") -> Iterator[Receiver]:
    """Run the server on a free port of that address."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.paths.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if receiver.mode == "hang":
                receiver.released.wait(60)
                return
            if receiver.mode == "trickle":
                self._trickle()
                return
            status = 200 if receiver.mode == "ok" else 307 if receiver.mode == "redirect" else int(receiver.mode)
            if status == 200:
                receiver.messages.append(json.loads(body))
            self.send_response(status)
            if receiver.mode == "redirect":
                self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _trickle(self) -> None:
            """Send a byte of the head at a time: each read of the client ends in time, the answer never comes."""
            try:
                while not receiver.released.is_set():
                    self.wfile.write(b"H")
                    self.wfile.flush()
                    time.sleep(0.2)
            except OSError:
                return

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
