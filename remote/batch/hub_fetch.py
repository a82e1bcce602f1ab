"""Downloads one model from the hub, inside the image: `python3 hub_fetch.py`, its request as JSON on standard input.

Request: endpoint, model, revision, token, models_dir, progress (file), quota_left (bytes, or null), job_name.
Partial downloads are kept, and the next run resumes them at the last byte. huggingface_hub's own `snapshot_download`
restarts an interrupted file, so only its parts are used here: listing, address, `http_get`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

# plain HTTP, because the hub's chunk store (Xet) cannot resume at the last byte
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.update(HF_HUB_DISABLE_IMPLICIT_TOKEN="1", HF_HUB_DISABLE_UPDATE_CHECK="1")
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "30")
# the image sets these to 1, so that vLLM does not query the hub
os.environ.update(HF_HUB_OFFLINE="0", TRANSFORMERS_OFFLINE="0")

from download_errors import DownloadError, explain
from download_progress import ProgressReporter, cancel_and_exit
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.file_download import get_hf_file_metadata, http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from job_files import read_json, write_json
from model_folder import (
    METADATA,
    REVISION,
    Entry,
    files_to_serve,
    hash_of,
    is_hash,
    is_safe,
    manifest_path,
    model_path,
    part_path,
    partial_path,
    plan_path,
    size_of,
)

WORKERS = 6
# a file that does not grow is tried this often again, after pauses that double
TRIES = 4
PAUSE_S = float(os.environ.get("BOUCHET_DOWNLOAD_PAUSE_S", "5"))
MAX_PAUSE_S = 60
# the most that an interrupted file loses
constants.DOWNLOAD_CHUNK_SIZE = 1 << 20
# more than the files' sizes, for the disk's own bookkeeping
SPARE_SHARE = 0.01


class ModelDownload:
    """One run: list, compare with what is on disk, download, rename."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request, self.model = request, request["model"]
        self.target = model_path(request["models_dir"], self.model)
        self.folder = partial_path(request["models_dir"], self.model)
        self.api = HfApi(endpoint=request["endpoint"], token=request["token"] or False)
        self.progress = ProgressReporter(request, self.folder)
        self.stopping = threading.Event()

    @property
    def entries(self) -> list[Entry]:
        """The model's files, smallest first."""
        return self.progress.entries

    @property
    def commit(self) -> str:
        """The commit of the revision."""
        return self.progress.commit

    def run(self) -> None:
        """Run all steps. Raises DownloadError, or what `explain` turns into one."""
        self.list_when_allowed()
        if self.is_complete():
            self.progress.report("done", sentence="already downloaded; every file is as on the hub")
            return
        with self.locked():
            self.reuse_files()
            self.check_space()
            self.progress.step = "downloading"
            self.download_all()
            self.progress.step = "finishing"
            self.progress.report()
            self.finish()
        self.progress.report("done", sentence="%d files, every hash verified" % len(self.entries))

    # steps

    def list_when_allowed(self) -> None:
        """List the files; wait as long as the hub asks for where it counts too many requests."""
        for tries in range(1, TRIES + 1):
            try:
                self.list_files()
                return
            except Exception as exc:
                error = explain(exc, self.model, self.request)
                if not error.wait_s or tries == TRIES:
                    raise
                print("bouchet: %s" % error, flush=True)
                self.stopping.wait(error.wait_s)

    def list_files(self) -> None:
        """List commit and files. A gated model's listing is public, so the smallest file is requested as well."""
        self.progress.report()
        info = self.api.model_info(self.model, revision=self.request["revision"], files_metadata=True)
        if not info.sha or not info.siblings:
            raise DownloadError("empty", "%s has no files on the hub" % self.model)
        if not is_hash(info.sha, "sha1"):
            raise DownloadError("unsafe", "the hub lists a commit of %s that is no hash: %r" % (self.model, info.sha))
        self.progress.commit = info.sha
        entries = [to_entry(sibling) for sibling in info.siblings if sibling.rfilename != REVISION]
        self.progress.entries = sorted(files_to_serve(entries), key=lambda e: (e["size"], e["path"]))
        unsafe = [e["path"] for e in self.entries if not is_safe(e["path"])]
        if unsafe:
            raise DownloadError("unsafe", "%s has a file with an unsafe name: %r" % (self.model, unsafe[0]))
        self.address_of(self.entries[0])

    def is_complete(self) -> bool:
        """Return whether this commit of the model is on disk."""
        known = read_json(manifest_path(self.target)) or {}
        sizes = all(size_of(os.path.join(self.target, e["path"])) == e["size"] for e in self.entries)
        if known.get("revision") == self.commit and sizes:
            self.progress.done = {e["path"] for e in self.entries}
            return True
        return False

    @contextlib.contextmanager
    def locked(self) -> Any:
        """Lock the partial folder against another download, where the file system supports locks."""
        os.makedirs(os.path.join(self.folder, METADATA), exist_ok=True)
        with open(os.path.join(self.folder, METADATA, "lock"), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                message = "another download of %s is writing to %s" % (self.model, self.folder)
                raise DownloadError("busy", message) from exc
            except OSError:
                pass  # a file system without locks
            yield

    def reuse_files(self) -> None:
        """Reuse files of an interrupted download, or of another commit on disk."""
        before = {e["path"]: e["hash"] for e in (read_json(plan_path(self.folder)) or {}).get("files", [])}
        known = {e["path"]: e["hash"] for e in (read_json(manifest_path(self.target)) or {}).get("files", [])}
        self.progress.step = "checking existing files"
        for entry in self.entries:
            own = os.path.join(self.folder, entry["path"])
            if size_of(own) == entry["size"] and os.path.exists(own) and self.is_same(own, entry, before):
                self.progress.add(entry["path"])
            elif self.is_same(os.path.join(self.target, entry["path"]), entry, known):
                self.link(entry, own)
            self.progress.report()
        plan = {"model": self.model, "revision": self.commit, "files": self.entries, "bytes": self.progress.total}
        write_json(plan_path(self.folder), plan)

    def is_same(self, path: str, entry: Entry, known: dict[str, str]) -> bool:
        """Return whether a file is the wanted one: by the hash on record (`known`), else by computing it."""
        if not os.path.isfile(path) or size_of(path) != entry["size"]:
            return False
        if entry["path"] in known:
            return known[entry["path"]] == str(entry["hash"])
        return hash_of(path, entry["kind"]) == str(entry["hash"])

    def link(self, entry: Entry, own: str) -> None:
        """Link a file of the complete model (a hard link takes no space)."""
        os.makedirs(os.path.dirname(own), exist_ok=True)
        with contextlib.suppress(OSError):
            if os.path.exists(own):
                os.remove(own)
            os.link(os.path.join(self.target, entry["path"]), own)
            self.progress.add(entry["path"])

    def check_space(self) -> None:
        """Raise DownloadError when disk or quota is too small for the rest."""
        missing = self.progress.total - self.progress.bytes()
        needed = missing + int(missing * SPARE_SHARE)
        known = os.statvfs(self.folder)
        for left, what in ((known.f_bavail * known.f_frsize, "the disk"), (self.request["quota_left"], "your quota")):
            if left is not None and left < needed:
                message = "%s needs %s more in %s, and %s has %s left; free some space, or change the site's models_dir"
                values = (self.model, format_bytes(needed), self.request["models_dir"], what, format_bytes(left))
                raise DownloadError("no_space", message % values)

    def download_all(self) -> None:
        """Download every missing file, several in parallel. The first failure ends it."""
        missing = [e for e in self.entries if e["path"] not in self.progress.done]
        with self.progress.reporting():
            pool = ThreadPoolExecutor(WORKERS, "download")
            ended = wait([pool.submit(self.download, entry) for entry in missing], return_when=FIRST_EXCEPTION)
            self.stopping.set()
        for future in ended.done:
            future.result()

    def finish(self) -> None:
        """Write revision and manifest, and rename the folder; an older commit is kept next to it."""
        keep = {e["path"] for e in self.entries} | {REVISION}
        manifest = {
            "version": 1,
            "model": self.model,
            "asked": self.request["revision"],
            "revision": self.commit,
            "endpoint": self.api.endpoint,
            "bytes": self.progress.total,
            "files": sorted(self.entries, key=lambda e: str(e["path"])),
            "job_name": self.request["job_name"],
            "at": int(time.time()),
        }
        write_json(manifest_path(self.folder), manifest)
        with open(os.path.join(self.folder, REVISION), "w", encoding="ascii") as target:
            target.write(self.commit + "\n")
        remove_others(self.folder, keep)
        if self.request.get("for_group"):
            share_with_group(self.folder)
        if os.path.lexists(self.target):
            before = (read_json(manifest_path(self.target)) or {}).get("revision") or "earlier"
            parent, name = os.path.split(self.target)
            os.rename(self.target, os.path.join(parent, ".%s.%s.%d" % (name, before[:8], time.time())))
        os.rename(self.folder, self.target)

    # one file

    def download(self, entry: Entry) -> None:
        """Download one file and verify its hash. Restart once: an earlier run's part of it may be corrupt."""
        part = part_path(self.folder, entry)
        for _ in range(2):
            self.download_with_retries(entry, part)
            if self.stopping.is_set():
                return
            if hash_of(part, entry["kind"]) == entry["hash"]:
                break
            os.remove(part)
        else:
            raise DownloadError("wrong_hash", "%s does not have the hash that the hub lists; try again" % entry["path"])
        own = os.path.join(self.folder, entry["path"])
        os.makedirs(os.path.dirname(own), exist_ok=True)
        os.replace(part, own)
        self.progress.add(entry["path"])

    def download_with_retries(self, entry: Entry, part: str) -> None:
        """Download until the part has the file's size; retry while it grows, and TRIES times when it does not."""
        tries, pause = 0, PAUSE_S
        while not self.stopping.is_set():
            size = size_of(part)
            try:
                self.resume(entry, part)
                return
            except Exception as exc:
                error = explain(exc, self.model, self.request)
                has_grown = size_of(part) > size
                tries, pause = (0, PAUSE_S) if has_grown else (tries + 1, min(pause * 2, MAX_PAUSE_S))
                if not error.retryable or tries >= TRIES:
                    raise error from exc
                self.stopping.wait(max(pause, error.wait_s))

    def resume(self, entry: Entry, part: str) -> None:
        """Download the rest of the file with one request."""
        url, address = self.address_of(entry)
        with open(part, "ab") as target:
            if target.tell() > entry["size"]:
                target.truncate(0)
            # the content network's signed address must not get the hub's token
            token = self.request["token"] if urlsplit(url).netloc == urlsplit(address).netloc else None
            headers = build_hf_headers(token=token or False)
            http_get(
                address, target, resume_size=os.fstat(target.fileno()).st_size, headers=headers,
                expected_size=entry["size"],
            )  # fmt: skip

    def address_of(self, entry: Entry) -> tuple[str, str]:
        """Return the file's URL on the hub, and the one that its bytes come from."""
        url = hf_hub_url(self.model, entry["path"], revision=self.commit, endpoint=self.api.endpoint)
        found = get_hf_file_metadata(url, token=self.request["token"] or False)
        return url, found.location


def to_entry(sibling: Any) -> Entry:
    """Return path, size, hash and hash kind of a file in the hub's listing."""
    if sibling.size is None:
        raise DownloadError("no_sizes", "the hub lists no size for %s; check hub_endpoint" % sibling.rfilename)
    kind, found = ("sha1", sibling.blob_id) if sibling.lfs is None else ("sha256", sibling.lfs.sha256)
    if not is_hash(found, kind):
        message = "the hub lists no %s for %s but %r; check hub_endpoint"
        raise DownloadError("unsafe", message % (kind, sibling.rfilename, found))
    return {"path": sibling.rfilename, "size": sibling.size, "hash": found, "kind": kind}


def remove_others(folder: str, keep: set[str]) -> None:
    """Remove what is not part of the model: parts, plan, lock, and files that only an earlier commit had."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if os.path.relpath(path, folder) not in keep and path != manifest_path(folder):
                os.remove(path)


def share_with_group(folder: str) -> None:
    """Let the group read everything below the folder; others read nothing."""
    for place, _, names in os.walk(folder):
        os.chmod(place, 0o750)
        for name in names:
            os.chmod(os.path.join(place, name), 0o640)


def format_bytes(count: float) -> str:
    """Return for example `12.3 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return "%.0f %s" % (count, unit) if unit == "bytes" else "%.1f %s" % (count, unit)
        count /= 1024
    return "%.1f TiB" % count


def main() -> int:
    """Return 0 when the model is complete, else 1; the progress file has the reason."""
    download = ModelDownload(json.load(sys.stdin))
    progress = download.progress
    signal.signal(signal.SIGTERM, lambda *_: cancel_and_exit(progress))
    signal.signal(signal.SIGINT, lambda *_: cancel_and_exit(progress))
    try:
        download.run()
    except Exception as exc:
        error = explain(exc, download.model, download.request)
        if error.kind == "bug":
            sys.excepthook(*sys.exc_info())
        kept = "; %s of it are kept" % format_bytes(progress.bytes()) if progress.bytes() else ""
        with contextlib.suppress(OSError):
            progress.report("failed", error.kind, str(error) + kept)
        print("bouchet: %s%s" % (error, kept), flush=True)
        # other threads may still be downloading
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
