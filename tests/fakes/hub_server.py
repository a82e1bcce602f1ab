"""A small model hub: the part of Hugging Face's HTTP API that huggingface_hub uses to list and download a model.

Standard library only. Tests hold it as an object (`Hub`), or run it as a program inside the demo cluster:

    hub_server.py PORT SECONDS [MODEL=BYTES ...]    serves generated models of those sizes for so many seconds

Large files are kept as LFS keeps them: /resolve/ redirects to another host name, which refuses the hub's token.
GET /_state returns all requests so far, POST /_state changes the fields of `HubBehavior`.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE = 64 * 1024
REVISIONS = ("main", "v1")
TOKEN = "hf_token-of-the-tests"


@dataclass
class HubModel:
    """One repository with one commit, which `main` and `v1` name. lfs: paths that are stored as large files."""

    files: dict[str, bytes]
    lfs: frozenset[str] = frozenset()
    gated: bool = False
    private: bool = False

    @cached_property
    def commit(self) -> str:
        """A hash that changes with the contents, as git's does."""
        whole = hashlib.sha1()
        for path, content in sorted(self.files.items()):
            whole.update(f"{path} {len(content)}\n".encode() + content)
        return whole.hexdigest()

    @cached_property
    def etags(self) -> dict[str, str]:
        """sha256 of large files, git's blob id of others."""
        found = {path: hashlib.sha1(b"blob %d\0" % len(c) + c).hexdigest() for path, c in self.files.items()}
        return {**found, **{path: hashlib.sha256(self.files[path]).hexdigest() for path in self.lfs}}

    def etag(self, path: str) -> str:
        """Return the ETag of a file."""
        return self.etags[path]

    def sibling(self, path: str) -> dict[str, Any]:
        """Return a file as the listing shows it."""
        size = len(self.files[path])
        row: dict[str, Any] = {"rfilename": path, "size": size, "blobId": "0" * 40}
        if path in self.lfs:
            return {**row, "lfs": {"sha256": self.etag(path), "size": size, "pointerSize": 135}}
        return {**row, "blobId": self.etag(path)}


@dataclass
class HubBehavior:
    """Faults and speed. cut_after: bytes of a large file before the connection breaks, `cuts` times; rate: bytes/s."""

    cut_after: int = 0
    cuts: int = 0
    rate: int = 0
    corrupt: bool = False
    failing: int = 0
    # requests answered 429, with this Retry-After
    limited: int = 0
    retry_after: str = "1"


@dataclass
class Hub:
    """The hub's models and behavior. requests: method, path and Range of every request so far."""

    models: dict[str, HubModel] = field(default_factory=dict)
    behavior: HubBehavior = field(default_factory=HubBehavior)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def ranges(self) -> list[str]:
        """Return the ranges that were requested."""
        return [wanted for method, _, wanted in self.requests if method == "GET" and wanted]


def make_model(size: int) -> HubModel:
    """Return a model whose weights are `size` bytes of noise, in two files."""
    half, block = size // 2, hashlib.sha512(b"noise").digest()
    weights = (block * (half // len(block) + 1))[:half]
    files = {
        "config.json": b'{"architectures": ["None"], "model_type": "generated"}\n',
        "tokenizer.json": b"{}\n",
        "model-00001-of-00002.safetensors": b"1" + weights,
        "model-00002-of-00002.safetensors": b"2" + weights,
        "pytorch_model.bin": b"the same weights in the older format",
    }
    return HubModel(files, frozenset(path for path in files if path.endswith((".safetensors", ".bin"))))


class HubHandler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.hub.behavior = HubBehavior(**{**asdict(self.hub.behavior), **wanted.get("behavior", {})})
        for name, gated in wanted.get("gated", {}).items():
            self.hub.models[name].gated = gated
        self._state()

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if path == "/_state":
            self._state()
            return
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if self.hub.behavior.failing > 0:
            self.hub.behavior.failing -= 1
            self._refuse(503, "", "the hub is under maintenance")
        elif self.hub.behavior.limited > 0:
            self.hub.behavior.limited -= 1
            self._refuse(429, "", "too many requests", {"Retry-After": self.hub.behavior.retry_after})
        elif parts[:2] == ["api", "models"]:
            self._info("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        elif parts[0] == "lfs":
            self._large(parts[1])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._refuse(404, "", "no such page")

    def _model(self, name: str, revision: str, *, content: bool) -> HubModel | None:
        """Return the repository; else send the hub's error and return None."""
        model, token = self.hub.models.get(name), self.headers.get("Authorization", "")
        known = token == f"Bearer {TOKEN}"
        if token and not known and not token.endswith("-of-another-user"):
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif model is None or (model.private and not known):
            self._refuse(404 if known else 401, "RepoNotFound", "Repository not found")
        elif content and model.gated and not known:
            self._refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        elif revision not in (*REVISIONS, model.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return model
        return None

    def _info(self, name: str, revision: str) -> None:
        model = self._model(name, revision, content=False)
        if model is not None:
            siblings = [model.sibling(path) for path in sorted(model.files)]
            body = {"id": name, "modelId": name, "sha": model.commit, "private": model.private, "siblings": siblings}
            self._send(200, json.dumps({**body, "gated": "manual" if model.gated else False}).encode())

    def _file(self, name: str, revision: str, path: str) -> None:
        model = self._model(name, revision, content=True)
        if model is None:
            return
        if path not in model.files:
            self._refuse(404, "EntryNotFound", f"{path} does not exist")
            return
        headers = {"X-Repo-Commit": model.commit}
        if path not in model.lfs:
            self._content(model.files[path], {**headers, "ETag": f'"{model.etag(path)}"'})
            return
        digest = model.etag(path)
        # another host name than the hub's, like a content network
        address = self.connection.getsockname()
        headers["Location"] = f"http://{address[0]}:{address[1]}/lfs/{digest}?signed=1"
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(model.files[path]))}
        self._send(302, b"", headers)

    def _large(self, digest: str) -> None:
        found = [m.files[p] for m in self.hub.models.values() for p in m.lfs if m.etag(p) == digest]
        if self.headers.get("Authorization"):
            self._refuse(400, "", "a signed address takes no token")
        elif not found:
            self._refuse(404, "", "no such object")
        else:
            content = b"?" + found[0][1:] if self.hub.behavior.corrupt else found[0]
            self._content(content, {"ETag": f'"{digest}"'}, is_large=True)

    def _content(self, content: bytes, headers: dict[str, str], is_large: bool = False) -> None:
        wanted, begin, status = self.headers.get("Range", ""), 0, 200
        if wanted:
            begin, status = int(wanted.removeprefix("bytes=").partition("-")[0]), 206
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            if begin >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content) - begin)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_slowly(content[begin:], is_large)

    def _send_slowly(self, content: bytes, is_large: bool) -> None:
        """Send the body, at the rate and up to the cut of the behavior."""
        behavior, sent = self.hub.behavior, 0
        cut = behavior.cut_after if is_large and behavior.cuts > 0 else 0
        while sent < len(content):
            piece = content[sent : sent + min(PIECE, (cut - sent) if cut else PIECE)]
            self.wfile.write(piece)
            sent += len(piece)
            if cut and sent >= cut:
                behavior.cuts -= 1
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if self.hub.behavior.rate and is_large:
                time.sleep(len(piece) / self.hub.behavior.rate)

    def _state(self) -> None:
        self._send(200, json.dumps({"behavior": asdict(self.hub.behavior), "requests": self.hub.requests}).encode())

    def _refuse(self, status: int, code: str, message: str, more: dict[str, str] | None = None) -> None:
        headers = {**(more or {}), **({"X-Error-Code": code} if code else {})}
        self._send(status, json.dumps({"error": message}).encode(), {**headers, "X-Error-Message": message})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that left and connections cut on purpose."""


@contextmanager
def running_hub(hub: Hub, address: str = "127.0.0.1", port: int = 0) -> Iterator[Hub]:
    """Serve the hub under the name `localhost`."""
    server = _HubServer((address, port), type("ServingHandler", (HubHandler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.url = f"http://localhost:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def main(arguments: list[str]) -> int:
    """Serve for the given seconds."""
    sizes = dict(argument.split("=") for argument in arguments[2:])
    hub = Hub({name: make_model(int(size)) for name, size in sizes.items()})
    with running_hub(hub, "0.0.0.0", int(arguments[0])):
        print("the hub is ready", flush=True)
        time.sleep(float(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
