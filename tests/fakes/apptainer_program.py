"""A fake `apptainer exec` on a compute node that is the vLLM in its container at the same time.

It writes its arguments and environment to $FAKE_APPTAINER_RECORD. $FAKE_APPTAINER_MODE: serve, crash, stubborn (ignores
SIGTERM), or port taken (only the second start serves). With --headless it serves nothing. It writes
$FAKE_APPTAINER_KERNEL, a path in its cache, as a compiled kernel, unless it exists.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WITH_VALUE = {"--bind", "--no-mount", "--pwd"}


def parse(argv: list[str]) -> tuple[list[str], dict[str, str], str, list[str]]:
    """Return flags, binds (source by target), image, and the command in the container."""
    flags: list[str] = []
    binds: dict[str, str] = {}
    at = 1
    while argv[at].startswith("--"):
        flags.append(argv[at])
        if argv[at] in WITH_VALUE:
            at += 1
            if argv[at - 1] == "--bind":
                source, _, rest = argv[at].partition(":")
                binds[rest.split(":")[0]] = source
        at += 1
    return flags, binds, argv[at], argv[at + 1 :]


class FakeVllmHandler(BaseHTTPRequestHandler):
    """The paths of vLLM that the job requests itself, and /slow, which ends once the drain file exists."""

    protocol_version = "HTTP/1.1"
    stopping = threading.Event()
    scratch = Path()
    key = os.environ.get("APPTAINERENV_VLLM_API_KEY", "")

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        if self.path != "/health" and self.headers["Authorization"] != f"Bearer {self.key}":
            self.send_error(401)
            return
        if self.path == "/slow":
            self.wait_for_drain()
        body = b'vllm:num_requests_running{engine="0"} 0.0\nvllm:generation_tokens_total{a="b"} 0\n'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-bouchet-proof", self.proof())
        self.end_headers()
        self.wfile.write(body)

    def proof(self) -> str:
        """Return the proof as guard.py computes it."""
        port = self.server.server_address[1] if isinstance(self.server.server_address, tuple) else 0
        message = f"bouchet-proof {port} {self.headers['x-bouchet-nonce']}"
        return hmac.new(self.key.encode(), message.encode(), hashlib.sha256).hexdigest()

    def wait_for_drain(self) -> None:
        """Create the file `slow`, and return half a second after the drain has begun."""
        (self.scratch / "slow").touch()
        while not (self.scratch / "drain").exists():
            time.sleep(0.02)
        time.sleep(0.5)


class UnixHTTPServer(ThreadingHTTPServer):
    """An HTTP server on a UNIX socket."""

    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        accepted, _ = self.socket.accept()
        return accepted, ("", 0)


def open_server(command: list[str], binds: dict[str, str]) -> ThreadingHTTPServer:
    """Listen where the command's arguments say, as vLLM does."""
    if "--uds" in command:
        target = Path(command[command.index("--uds") + 1])
        path = Path(binds[str(target.parent)]) / target.name
        return UnixHTTPServer(str(path), FakeVllmHandler)  # type: ignore[arg-type]
    host = command[command.index("--host") + 1]
    return ThreadingHTTPServer((host, int(command[command.index("--port") + 1])), FakeVllmHandler)


def compile_kernel(path: Path) -> None:
    """Write the kernel unless it exists."""
    if path.exists():
        print("found", "/".join(path.parts[-2:]), flush=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a kernel")


def main() -> int:
    """Return the exit status of the vLLM in the container."""
    flags, binds, image, command = parse(sys.argv[1:])
    environment = {name: value for name, value in os.environ.items() if name.startswith("APPTAINERENV_")}
    record = {"flags": flags, "binds": binds, "image": image, "command": command, "environment": environment}
    is_second = Path(os.environ["FAKE_APPTAINER_RECORD"]).exists()
    beside = Path(os.environ["FAKE_APPTAINER_RECORD"] + ".tmp")
    beside.write_text(json.dumps(record))
    beside.rename(os.environ["FAKE_APPTAINER_RECORD"])
    mode = os.environ.get("FAKE_APPTAINER_MODE", "serve")
    if mode == "port taken" and not is_second:
        print("OSError: [Errno 98] Address already in use", flush=True)
        return 1
    if mode == "crash":
        print("(EngineCore pid=1) ERROR 11-22 10:00:00 [core.py:1] ValueError: no such tool parser", flush=True)
        return 3
    FakeVllmHandler.scratch = Path(binds["/bouchet/job"])
    if "FAKE_APPTAINER_KERNEL" in os.environ:
        compile_kernel(Path(binds["/bouchet/cache"], os.environ["FAKE_APPTAINER_KERNEL"]))
    (FakeVllmHandler.scratch / "vllm.pid").write_text(f"{os.getpid()}\n")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else lambda *_: FakeVllmHandler.stopping.set())
    if "--headless" in command:
        FakeVllmHandler.stopping.wait()
        return 0
    server = open_server(command, binds)
    # like vLLM: running requests finish before the end
    server.daemon_threads = False
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    FakeVllmHandler.stopping.wait()
    server.shutdown()
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
