"""Fetches one model from the hub, inside the image: `python3 hub_fetch.py`, its request as JSON on standard input.

Request: endpoint, model, revision, token, models_dir, progress (file), quota_left (bytes, or null), job_name.
What has come is kept whatever happens, and the next run goes on behind its last byte. huggingface_hub's own
`snapshot_download` begins a file that was cut anew, so its parts are put together here: listing, address, `http_get`.
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

# plain HTTP: it can be taken up behind the last byte, which the hub's chunk store cannot
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.update(HF_HUB_DISABLE_IMPLICIT_TOKEN="1", HF_HUB_DISABLE_UPDATE_CHECK="1")
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "30")
# the image keeps vLLM from asking the hub
os.environ.update(HF_HUB_OFFLINE="0", TRANSFORMERS_OFFLINE="0")

from download_errors import Failed, in_words
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.file_download import get_hf_file_metadata, http_get
from huggingface_hub.utils import build_hf_headers
from job_files import write_json
from model_folder import (
    NOTES,
    REVISION,
    Entry,
    hash_of,
    is_safe,
    kept_bytes,
    manifest_path,
    part_path,
    partial_folder,
    plan_path,
    read_json,
    size_of,
    wanted_of,
    whole_folder,
)

WORKERS = 6
# a file that has not grown is tried so often again, after pauses that double
TRIES = 4
PAUSE_S = float(os.environ.get("BOUCHET_DOWNLOAD_PAUSE_S", "5"))
PROGRESS_S = 0.5
RATE_OVER_S = 15.0
# what a cut costs at most, for each file that was coming
constants.DOWNLOAD_CHUNK_SIZE = 1 << 20
SPARE_SHARE = 0.01


class Fetch:
    """One run. `request` as it came; the rest is found out step by step."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request, self.model = request, request["model"]
        self.whole = whole_folder(request["models_dir"], self.model)
        self.folder = partial_folder(request["models_dir"], self.model)
        self.api = HfApi(endpoint=request["endpoint"], token=request["token"] or False)
        self.commit = ""
        self.entries: list[Entry] = []
        self.step, self.state, self.kind, self.sentence = "asking the hub", "running", "", ""
        self.done: set[str] = set()
        self.seen: list[tuple[float, int]] = []
        # a signal may come while the main thread tells
        self.lock, self.telling, self.told_the_end = threading.RLock(), threading.RLock(), False
        self.stopping = threading.Event()

    def run(self) -> None:
        """All steps. Raises Failed, or what `in_words` makes a Failed of."""
        self.list_files()
        if self.is_here():
            self.tell("done", sentence="it is there already, every file as the hub has it")
            return
        with self.alone():
            self.begin()
            self.check_room()
            self.step = "fetching"
            self.fetch_all()
            self.step = "finishing"
            self.tell()
            self.finish()
        self.tell("done", sentence="%d files, every hash as the hub has it" % len(self.entries))

    # steps

    def list_files(self) -> None:
        """Commit and files. A gated model's listing is open, so the smallest file is asked for as well."""
        self.tell()
        info = self.api.model_info(self.model, revision=self.request["revision"], files_metadata=True)
        if not info.sha or not info.siblings:
            raise Failed("empty", "%s has no files on the hub" % self.model)
        self.commit = info.sha
        entries = [entry_of(sibling) for sibling in info.siblings if sibling.rfilename != REVISION]
        self.entries = sorted(wanted_of(entries), key=lambda e: (e["size"], e["path"]))
        unsafe = [e["path"] for e in self.entries if not is_safe(e["path"])]
        if unsafe:
            raise Failed("unsafe", "%s names a file that must not be written: %r" % (self.model, unsafe[0]))
        self.address_of(self.entries[0])

    def is_here(self) -> bool:
        """Whether the whole model of this commit lies there."""
        known = read_json(manifest_path(self.whole)) or {}
        sizes = all(size_of(os.path.join(self.whole, e["path"])) == e["size"] for e in self.entries)
        if known.get("revision") == self.commit and sizes:
            self.done = {e["path"] for e in self.entries}
            return True
        return False

    @contextlib.contextmanager
    def alone(self) -> Any:
        """Nobody else writes there at the same time, as far as the file system can tell."""
        os.makedirs(os.path.join(self.folder, NOTES), exist_ok=True)
        with open(os.path.join(self.folder, NOTES, "lock"), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise Failed("busy", "another download of %s writes to %s" % (self.model, self.folder)) from exc
            except OSError:
                pass  # a file system without locks
            yield

    def begin(self) -> None:
        """Takes over what an earlier run, or the whole model of another commit, has of the same files."""
        before = {e["path"]: e["hash"] for e in (read_json(plan_path(self.folder)) or {}).get("files", [])}
        known = {e["path"]: e["hash"] for e in (read_json(manifest_path(self.whole)) or {}).get("files", [])}
        self.step = "checking what is there"
        for entry in self.entries:
            own = os.path.join(self.folder, entry["path"])
            if size_of(own) == entry["size"] and os.path.exists(own) and self.is_right(own, entry, before):
                self.done.add(entry["path"])
            elif self.is_right(os.path.join(self.whole, entry["path"]), entry, known):
                self.link(entry, own)
            self.tell()
        plan = {"model": self.model, "revision": self.commit, "files": self.entries, "bytes": self.total}
        write_json(plan_path(self.folder), plan)

    def is_right(self, path: str, entry: Entry, known: dict[str, str]) -> bool:
        """Whether that file is the wanted one: by our own note of its hash, else by reading it."""
        if not os.path.isfile(path) or size_of(path) != entry["size"]:
            return False
        if entry["path"] in known:
            return known[entry["path"]] == entry["hash"]
        return hash_of(path, entry["kind"]) == entry["hash"]

    def link(self, entry: Entry, own: str) -> None:
        """The same file under a second name, which takes no room."""
        os.makedirs(os.path.dirname(own), exist_ok=True)
        with contextlib.suppress(OSError):
            if os.path.exists(own):
                os.remove(own)
            os.link(os.path.join(self.whole, entry["path"]), own)
            self.done.add(entry["path"])

    def check_room(self) -> None:
        """Raises Failed when disk or quota cannot take what is still to come."""
        missing = self.total - self.bytes()
        needed = missing + int(missing * SPARE_SHARE)
        known = os.statvfs(self.folder)
        for left, whose in ((known.f_bavail * known.f_frsize, "the disk"), (self.request["quota_left"], "your quota")):
            if left is not None and left < needed:
                words = "%s needs %s more in %s, and %s has %s left; make room there, or change models_dir of the site"
                room = (self.model, in_bytes(needed), self.request["models_dir"], whose, in_bytes(left))
                raise Failed("no_space", words % room)

    def fetch_all(self) -> None:
        """Every file that is not there yet, several at once. The first failure ends it."""
        missing = [e for e in self.entries if e["path"] not in self.done]
        reporter = threading.Thread(target=self.report, daemon=True)
        reporter.start()
        pool = ThreadPoolExecutor(WORKERS, "fetch")
        ended = wait([pool.submit(self.fetch, entry) for entry in missing], return_when=FIRST_EXCEPTION)
        self.stopping.set()
        reporter.join()
        for future in ended.done:
            future.result()

    def finish(self) -> None:
        """Writes revision and manifest, and gives the folder its name; what had that name is kept beside it."""
        keep = {e["path"] for e in self.entries} | {REVISION}
        write_json(
            manifest_path(self.folder),
            {
                "version": 1,
                "model": self.model,
                "asked": self.request["revision"],
                "revision": self.commit,
                "endpoint": self.api.endpoint,
                "bytes": self.total,
                "files": sorted(self.entries, key=lambda e: e["path"]),
                "job_name": self.request["job_name"],
                "at": int(time.time()),
            },
        )
        with open(os.path.join(self.folder, REVISION), "w", encoding="ascii") as target:
            target.write(self.commit + "\n")
        remove_others(self.folder, keep)
        if os.path.lexists(self.whole):
            before = (read_json(manifest_path(self.whole)) or {}).get("revision") or "earlier"
            head, name = os.path.split(self.whole)
            os.rename(self.whole, os.path.join(head, ".%s.%s.%d" % (name, before[:8], time.time())))
        os.rename(self.folder, self.whole)

    # one file

    def fetch(self, entry: Entry) -> None:
        """One file, to its own name. What an earlier run left of it may be spoilt, so it is fetched anew once."""
        part = part_path(self.folder, entry)
        for _ in range(2):
            self.fetch_whole(entry, part)
            if self.stopping.is_set():
                return
            if hash_of(part, entry["kind"]) == entry["hash"]:
                break
            os.remove(part)
        else:
            raise Failed("wrong_hash", "%s came with another hash than the hub names; try again" % entry["path"])
        own = os.path.join(self.folder, entry["path"])
        os.makedirs(os.path.dirname(own), exist_ok=True)
        os.replace(part, own)
        with self.lock:
            self.done.add(entry["path"])

    def fetch_whole(self, entry: Entry, part: str) -> None:
        """Until the piece is as long as the file; tried again while it grows, and a few times when it does not."""
        tries, pause = 0, PAUSE_S
        while not self.stopping.is_set():
            size = size_of(part)
            try:
                self.fetch_on(entry, part)
                return
            except Exception as exc:
                failed = in_words(exc, self.model, self.request)
                grown = size_of(part) > size
                tries, pause = (0, PAUSE_S) if grown else (tries + 1, min(pause * 2, 60))
                if not failed.passing or tries >= TRIES:
                    raise failed from exc
                self.stopping.wait(pause)

    def fetch_on(self, entry: Entry, part: str) -> None:
        """What is still missing of the file."""
        url, address = self.address_of(entry)
        with open(part, "ab") as target:
            if target.tell() > entry["size"]:
                target.truncate(0)
            # a signed address of a content network takes no token, and must not get it
            token = self.request["token"] if urlsplit(url).netloc == urlsplit(address).netloc else None
            headers = build_hf_headers(token=token or False)
            http_get(
                address, target, resume_size=os.fstat(target.fileno()).st_size, headers=headers,
                expected_size=entry["size"],
            )  # fmt: skip

    def address_of(self, entry: Entry) -> tuple[str, str]:
        """The file's page on the hub, and where its bytes are."""
        url = hf_hub_url(self.model, entry["path"], revision=self.commit, endpoint=self.api.endpoint)
        found = get_hf_file_metadata(url, token=self.request["token"] or False)
        return url, found.location

    # progress

    @property
    def total(self) -> int:
        """Bytes of the whole model."""
        return sum(e["size"] for e in self.entries)

    def bytes(self) -> int:
        """Bytes that have come: real ones, of files on disk."""
        with self.lock:
            done = set(self.done)
        whole = sum(e["size"] for e in self.entries if e["path"] in done)
        return whole + kept_bytes(self.folder, [e for e in self.entries if e["path"] not in done])

    def report(self) -> None:
        """Writes the progress file until the fetching ends."""
        while not self.stopping.wait(PROGRESS_S):
            with contextlib.suppress(OSError):
                self.tell()

    def tell(self, state: str = "running", kind: str = "", sentence: str = "") -> None:
        """Replaces the progress file, from any thread. After an end nothing more is said."""
        with self.telling:
            if self.told_the_end:
                return
            write_json(self.request["progress"], self.story(state, kind, sentence))
            self.told_the_end = state != "running"

    def story(self, state: str, kind: str, sentence: str) -> dict[str, Any]:
        """What the progress file says."""
        now, have = time.time(), self.bytes()
        self.seen = [*[s for s in self.seen if now - s[0] < RATE_OVER_S], (now, have)]
        passed = now - self.seen[0][0]
        rate = (have - self.seen[0][1]) / passed if passed > 0 and self.step == "fetching" else 0
        return {
            "version": 1,
            "job_name": self.request["job_name"],
            "state": state,
            "kind": kind,
            "step": self.step if state == "running" else "",
            "sentence": sentence,
            "model": self.model,
            "commit": self.commit or None,
            "bytes": have,
            "total_bytes": self.total if self.entries else None,
            "files": len(self.done),
            "total_files": len(self.entries) or None,
            "rate": int(rate),
            "at": round(now, 1),
        }


def entry_of(sibling: Any) -> Entry:
    """One file of the listing: path, size, hash and its kind."""
    if sibling.size is None:
        raise Failed("no_sizes", "the hub names no size for %s; is it a hub?" % sibling.rfilename)
    if sibling.lfs is not None:
        return {"path": sibling.rfilename, "size": sibling.size, "hash": sibling.lfs.sha256, "kind": "sha256"}
    return {"path": sibling.rfilename, "size": sibling.size, "hash": sibling.blob_id, "kind": "sha1"}


def remove_others(folder: str, keep: set[str]) -> None:
    """Takes away what is not part of the model: pieces, plan, lock, and files that an earlier commit had."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if os.path.relpath(path, folder) not in keep and path != manifest_path(folder):
                os.remove(path)


def in_bytes(count: float) -> str:
    """12.3 GiB, 4.0 MiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return "%.0f %s" % (count, unit) if unit == "bytes" else "%.1f %s" % (count, unit)
        count /= 1024
    return "%.1f TiB" % count


def main() -> int:
    """0: done. 1: failed, or told to stop; the progress file says how."""
    fetch = Fetch(json.load(sys.stdin))

    def stop(*_: object) -> None:
        with contextlib.suppress(OSError):
            fetch.tell("stopped", "stopped", "it was told to stop; what has come is kept")
        os._exit(1)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        fetch.run()
    except Exception as exc:
        failed = in_words(exc, fetch.model, fetch.request)
        if failed.kind == "bug":
            sys.excepthook(*sys.exc_info())
        kept = "; %s of it are kept" % in_bytes(fetch.bytes()) if fetch.bytes() else ""
        with contextlib.suppress(OSError):
            fetch.tell("failed", failed.kind, str(failed) + kept)
        print("bouchet: %s%s" % (failed, kept), flush=True)
        # other files may still be coming
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
