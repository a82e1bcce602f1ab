"""Stands for `apptainer` on a compute node: checks how it is called and is the vLLM inside at the same time.

Writes what it was given to $FAKE_APPTAINER_RECORD. $FAKE_APPTAINER_MODE: serve, crash, stubborn (ignores SIGTERM), or
port taken (only the second one serves). With --headless it serves nothing. It
compiles $FAKE_APPTAINER_KERNEL, a path in its cache, unless it is there.
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


def parse(words: list[str]) -> tuple[list[str], dict[str, str], str, list[str]]:
    """Flags, binds by their place inside, image, and the command inside."""
    flags, binds, at = [], {}, 1
    while words[at].startswith("--"):
        flags.append(words[at])
        if words[at] in WITH_VALUE:
            at += 1
            if words[at - 1] == "--bind":
                source, _, rest = words[at].partition(":")
                binds[rest.split(":")[0]] = source
        at += 1
    return flags, binds, words[at], words[at + 1 :]


class Server(BaseHTTPRequestHandler):
    """vLLM's paths that the job asks itself, and /slow, which ends once the drain file lies there."""

    protocol_version = "HTTP/1.1"
    stopping = threading.Event()
    scratch = Path()
    key = os.environ.get("APPTAINERENV_VLLM_API_KEY", "")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

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
        """As the guard gives it."""
        port = self.server.server_address[1] if isinstance(self.server.server_address, tuple) else 0
        words = f"bouchet-proof {port} {self.headers['x-bouchet-nonce']}"
        return hmac.new(self.key.encode(), words.encode(), hashlib.sha256).hexdigest()

    def wait_for_drain(self) -> None:
        """Says that it has begun; goes on for half a second after the drain began."""
        (self.scratch / "slow").touch()
        while not (self.scratch / "drain").exists():
            time.sleep(0.02)
        time.sleep(0.5)


class SocketServer(ThreadingHTTPServer):
    """At a UNIX socket."""

    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        accepted, _ = self.socket.accept()
        return accepted, ("", 0)


def open_server(command: list[str], binds: dict[str, str]) -> ThreadingHTTPServer:
    """Where the command says, as vLLM does."""
    if "--uds" in command:
        inside = Path(command[command.index("--uds") + 1])
        return SocketServer(str(Path(binds[str(inside.parent)]) / inside.name), Server)  # type: ignore[arg-type]
    host = command[command.index("--host") + 1]
    return ThreadingHTTPServer((host, int(command[command.index("--port") + 1])), Server)


def compile_kernel(path: Path) -> None:
    """Where it is not there yet."""
    if path.exists():
        print("found", "/".join(path.parts[-2:]), flush=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a kernel")


def main() -> int:
    """Exit status of the vLLM inside."""
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
    Server.scratch = Path(binds["/bouchet/job"])
    if "FAKE_APPTAINER_KERNEL" in os.environ:
        compile_kernel(Path(binds["/bouchet/cache"], os.environ["FAKE_APPTAINER_KERNEL"]))
    (Server.scratch / "vllm.pid").write_text(f"{os.getpid()}\n")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else lambda *_: Server.stopping.set())
    if "--headless" in command:
        Server.stopping.wait()
        return 0
    server = open_server(command, binds)
    # like vLLM: answers under way are finished before the end
    server.daemon_threads = False
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    Server.stopping.wait()
    server.shutdown()
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
