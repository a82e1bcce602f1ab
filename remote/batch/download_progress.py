"""The progress file of a download, written from several threads. Runs in the image, with hub_fetch.py."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

from batch_job import Steps, with_step
from job_files import read_json, write_json
from model_folder import Entry, downloaded_bytes

INTERVAL_S = 0.5
RATE_WINDOW_S = 15.0


class ProgressReporter:
    """What has been downloaded, and the file that reports it.

    step: a description; commit: empty, and entries: none, until the hub has listed the model's files.
    """

    def __init__(self, request: dict[str, Any], folder: str) -> None:
        self.request, self.folder = request, folder
        self.commit = ""
        self.entries: list[Entry] = []
        self.done: set[str] = set()
        # for done; and for the file, which a signal handler may write while the main thread does
        self.lock, self.writing = threading.RLock(), threading.RLock()
        self.has_ended = False
        # the job's own steps come before those of this program
        self._steps: Steps = (read_json(request["progress"]) or {}).get("steps", [])
        self.step = "querying the hub"
        self._samples: list[tuple[float, int]] = []
        self._stopping = threading.Event()

    @property
    def step(self) -> str:
        """The current step."""
        return self._step

    @step.setter
    def step(self, name: str) -> None:
        self._step = name
        self._steps = with_step(self._steps, name, time.time())

    @property
    def total(self) -> int:
        """Bytes of the whole model."""
        return sum(int(e["size"]) for e in self.entries)

    def bytes(self) -> int:
        """Return the bytes that are on disk."""
        with self.lock:
            done = set(self.done)
        complete: int = sum(e["size"] for e in self.entries if e["path"] in done)
        return complete + downloaded_bytes(self.folder, [e for e in self.entries if e["path"] not in done])

    def add(self, path: str) -> None:
        """Count a file as complete."""
        with self.lock:
            self.done.add(path)

    @contextlib.contextmanager
    def reporting(self) -> Any:
        """Rewrite the file at an interval in a background thread."""
        reporter = threading.Thread(target=self._report_until_stopped, daemon=True)
        reporter.start()
        try:
            yield
        finally:
            self._stopping.set()
            reporter.join()

    def _report_until_stopped(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            with contextlib.suppress(OSError):
                self.report()

    def report(self, state: str = "running", kind: str = "", sentence: str = "") -> None:
        """Replace the file. After a state other than `running` it is not changed any more."""
        with self.writing:
            if self.has_ended:
                return
            write_json(self.request["progress"], self._document(state, kind, sentence))
            self.has_ended = state != "running"

    def _document(self, state: str, kind: str, sentence: str) -> dict[str, Any]:
        now, have = time.time(), self.bytes()
        self._samples = [*[s for s in self._samples if now - s[0] < RATE_WINDOW_S], (now, have)]
        elapsed = now - self._samples[0][0]
        rate = (have - self._samples[0][1]) / elapsed if elapsed > 0 and self.step == "downloading" else 0
        return {
            "version": 1,
            "job_name": self.request["job_name"],
            "state": state,
            "kind": kind,
            "step": self.step if state == "running" else "",
            "steps": self._steps,
            "sentence": sentence,
            "model": self.request["model"],
            "commit": self.commit or None,
            "bytes": have,
            "total_bytes": self.total if self.entries else None,
            "files": len(self.done),
            "total_files": len(self.entries) or None,
            "rate": int(rate),
            "at": round(now, 1),
        }


def cancel_and_exit(progress: ProgressReporter) -> None:
    """Report that the download was cancelled, and end the process: other threads may be downloading."""
    with contextlib.suppress(OSError):
        progress.report("stopped", "stopped", "it was cancelled; partial downloads are kept")
    os._exit(1)
