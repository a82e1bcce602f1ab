"""A small model hub on the demo's login node: `python3 hub.py PORT FOLDER NAME=SUBFOLDER...` serves folders as models.

It speaks as much of the Hugging Face hub's HTTP as downloads and `bouchet models add` use: the listing of a repository,
and its files, with ranges. Large files come by a redirect to another host name, as from the hub's content network.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 1 << 20
READ_BYTES = 1 << 20
# of our own downloads, and what other programs leave
IGNORED = (".bouchet", "REVISION")


@cache
def hash_of(path: Path, size: int, changed_at: float) -> str:
    """Return the sha256 of a large file, git's blob id of a small one. size, changed_at: of the file, for the cache."""
    digest = hashlib.sha256() if size >= LARGE_BYTES else hashlib.sha1(b"blob %d\0" % size)
    with path.open("rb") as source:
        for piece in iter(lambda: source.read(READ_BYTES), b""):
            digest.update(piece)
    return digest.hexdigest()


def files_of(folder: Path) -> list[tuple[str, int, str]]:
    """Return path, size and hash of every file below the folder, sorted."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in IGNORED]
        for name in names:
            path = Path(place, name)
            known = path.stat()
            if name not in IGNORED:
                digest = hash_of(path, known.st_size, known.st_mtime)
                found.append((str(path.relative_to(folder)), known.st_size, digest))
    return sorted(found)


class HubRequest(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    models: Mapping[str, Path] = {}

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the container's log is Slurm's."""

    def do_HEAD(self) -> None:
        """Answer as to GET, without the content."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer a listing, a file, or the content of a large file."""
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self.send_listing("/".join(parts[2:4]))
        elif len(parts) > 4 and parts[2] == "resolve":
            self.send_file("/".join(parts[:2]), "/".join(parts[4:]))
        elif parts[0] == "lfs" and len(parts) == 2:
            self.send_large(parts[1])
        else:
            self.refuse("RepoNotFound", "no such page")

    def send_listing(self, model: str) -> None:
        """Send the listing of a repository."""
        folder = self.models.get(model)
        if folder is None or not folder.is_dir():
            self.refuse("RepoNotFound", "Repository not found")
            return
        files = files_of(folder)
        commit = hashlib.sha1(json.dumps(files).encode()).hexdigest()
        rows = []
        for path, size, digest in files:
            row: dict[str, object] = {"rfilename": path, "size": size, "blobId": digest[:40]}
            if size >= LARGE_BYTES:
                row["lfs"] = {"sha256": digest, "size": size, "pointerSize": 135}
            rows.append(row)
        body = {"id": model, "modelId": model, "sha": commit, "private": False, "gated": False, "siblings": rows}
        self.reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def send_file(self, model: str, path: str) -> None:
        """Send a small file, or the address of a large one."""
        folder = self.models.get(model)
        files = {name: (size, digest) for name, size, digest in files_of(folder)} if folder else {}
        if folder is None or path not in files:
            self.refuse("EntryNotFound" if folder else "RepoNotFound", path + " does not exist")
            return
        size, digest = files[path]
        commit = hashlib.sha1(json.dumps(files_of(folder)).encode()).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit}
        if size < LARGE_BYTES:
            self.send_content(folder / path, headers)
            return
        host, port = self.connection.getsockname()[:2]
        headers.update({"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(size)})
        self.reply(302, b"", {**headers, "Location": f"http://{host}:{port}/lfs/{digest}"})

    def send_large(self, digest: str) -> None:
        """Send the content of a large file."""
        for folder in self.models.values():
            for path, _, known in files_of(folder):
                if known == digest:
                    self.send_content(folder / path, {"ETag": f'"{digest}"'})
                    return
        self.refuse("EntryNotFound", "no such object")

    def send_content(self, path: Path, headers: Mapping[str, str]) -> None:
        """Send a file, from the byte on that the client asks for."""
        size = path.stat().st_size
        wanted = self.headers.get("Range", "")
        begin = int(wanted[len("bytes=") :].partition("-")[0] or 0) if wanted.startswith("bytes=") else 0
        if begin and begin >= size:
            self.reply(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            headers = {**headers, "Content-Range": f"bytes {begin}-{size - 1}/{size}"}
        for name, value in {**headers, "Content-Length": str(size - begin)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with path.open("rb") as source:
            source.seek(begin)
            for piece in iter(lambda: source.read(READ_BYTES), b""):
                self.wfile.write(piece)

    def refuse(self, code: str, message: str) -> None:
        """Send the hub's error."""
        self.reply(404, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def main(arguments: Sequence[str]) -> None:
    """Serve until the container ends."""
    port, root = int(arguments[0]), Path(arguments[1])
    pairs = (argument.split("=", 1) for argument in arguments[2:])
    HubRequest.models = {name: root / folder for name, folder in pairs}
    ThreadingHTTPServer(("0.0.0.0", port), HubRequest).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
