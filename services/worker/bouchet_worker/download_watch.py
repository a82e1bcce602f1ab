"""Keeps the records of downloads true, within the loop's one look. `seen` is pure; the rest is thin."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from bouchet_core.downloads import Download, DownloadState
from bouchet_core.errors import (
    GatewayError,
    RemoteCommandFailed,
    RemoteFileMissing,
    SlurmOutputError,
    StaleRecord,
    UnknownModel,
)
from bouchet_core.models import Frozen
from pydantic import ConfigDict, ValidationError

from . import slurm
from .desk import Desk
from .download_job import progress_file
from .reasons import reason_in_words
from .states import STATES, Meaning, parse_state

log = logging.getLogger(__name__)

LOOK_TIMEOUT_S = 20.0
# the api puts an errand on the queue; after this long without a change it must have been lost
LOST_ERRAND = timedelta(seconds=3)
ERRAND_AGAIN_S = 6.0
# a program on the login node that has said nothing for so long is started again
SILENT_S = 90.0
GONE = "it ended without a word"
WORDS: Mapping[str, str] = {
    "TIMEOUT": "its walltime is used up",
    "OUT_OF_MEMORY": "it ran out of memory",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "others took its node",
    "CANCELLED": "somebody cancelled it (with scancel), not through bouchet-llm",
}


class Progress(Frozen):
    """progress.json, as the job writes it. Newer scripts may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    job_name: str
    state: Literal["running", "done", "failed", "stopped"]
    kind: str = ""
    step: str = ""
    sentence: str = ""
    commit: str | None = None
    bytes: int = 0
    total_bytes: int | None = None
    files: int = 0
    total_files: int | None = None
    rate: int = 0
    at: float = 0.0


def seen(record: Download, row: slurm.QueueRow | None, progress: Progress | None, word: str, now: datetime) -> Download:
    """The record after one look. row: None where squeue lists the job no more; word: Slurm's about its end."""
    if row is not None and STATES[parse_state(row.state)].meaning is Meaning.WAITING:
        reason = "being cancelled" if record.stop_requested_at else reason_in_words(row.reason)
        return record.changed(now, state=DownloadState.QUEUED, reason=reason, rate=0, eta_s=None)
    if progress is not None:
        record = with_counts(record, progress, now)
    if row is not None:
        return _running(record, progress, now)
    return _over(record, progress, word, now)


def with_counts(record: Download, progress: Progress, now: datetime) -> Download:
    """The record with what the job has counted."""
    left = (progress.total_bytes or 0) - progress.bytes
    return record.changed(
        now,
        commit=progress.commit or record.commit,
        bytes=progress.bytes,
        total_bytes=progress.total_bytes,
        files=progress.files,
        total_files=progress.total_files,
        rate=progress.rate,
        eta_s=left // progress.rate if progress.rate > 0 and left > 0 else None,
    )


def _running(record: Download, progress: Progress | None, now: datetime) -> Download:
    reason = (progress.step if progress else "") or "starting"
    if record.stop_requested_at is not None:
        reason = "being cancelled"
    return record.changed(now, state=DownloadState.RUNNING, reason=reason)


def _over(record: Download, progress: Progress | None, word: str, now: datetime) -> Download:
    if progress is not None and progress.state == "done":
        return record.ended(now, DownloadState.DONE, progress.sentence)
    if record.stop_requested_at is not None:
        kept = "; what has come is kept" if record.bytes else ""
        return record.ended(now, DownloadState.CANCELLED, f"cancelled as asked{kept}")
    if progress is not None and progress.state == "failed":
        return record.ended(now, DownloadState.FAILED, progress.sentence, progress.kind)
    said = WORDS.get(word.split(" ")[0], GONE + (f" (Slurm says {word})" if word else ""))
    sentence = f"{said}; what has come is kept, and `bouchet download {record.model}` goes on with it"
    return record.ended(now, DownloadState.FAILED, sentence, "job_ended")


@dataclass
class DownloadWatch:
    """send(errand, id) puts an errand on the queue."""

    desk: Desk
    send: Callable[[str, str], None]
    _sent: dict[str, float] = field(default_factory=dict)

    def wants_queue(self, downloads: Sequence[Download]) -> bool:
        """Whether squeue has something to say about any of them."""
        return any(d.slurm_id is not None for d in downloads)

    def settle(self, downloads: Sequence[Download], rows: Sequence[slurm.QueueRow] | None) -> None:
        """Moves every record to what was seen. rows: None when Slurm could not be asked, which changes nothing."""
        self._sent = {d.id: at for d in downloads if (at := self._sent.get(d.id)) is not None}
        for record in downloads:
            try:
                self._settle(record, rows)
            except StaleRecord:
                continue
            except (GatewayError, SlurmOutputError) as exc:
                log.debug("download %s: %s", record.id, exc)

    def _settle(self, record: Download, rows: Sequence[slurm.QueueRow] | None) -> None:
        if record.slurm_id is None:
            self._unsubmitted(record)
            return
        if rows is None:
            return
        row = next((r for r in rows if (r.job_id, r.name) == (record.slurm_id, record.job_name)), None)
        progress = self._with_hint(record, self._progress(record))
        is_told = progress is not None and progress.state in ("done", "failed")
        word = "" if row is not None or is_told else self._word(record)
        self._save(record, lambda old: seen(old, row, progress, word, self.desk.now()))
        asked = record.stop_requested_at
        if row is not None and asked is not None and self.desk.now() - asked >= LOST_ERRAND:
            self._send(record)

    def _unsubmitted(self, record: Download) -> None:
        if self.desk.site.download_on == "login" and record.asked_at is not None and self._on_login_node(record):
            return
        if self.desk.now() - record.updated_at >= LOST_ERRAND:
            self._send(record)

    def _on_login_node(self, record: Download) -> bool:
        """Whether its own words say how it is: it speaks, or it has ended."""
        progress = self._progress(record)
        if progress is None:
            return False
        now = self.desk.now()
        if progress.state == "running":
            self._save(record, lambda old: _running(with_counts(old, progress, now), progress, now))
            return now.timestamp() - progress.at < SILENT_S and record.stop_requested_at is None
        self._save(record, lambda old: _over(with_counts(old, progress, now), progress, "", now))
        return True

    def _save(self, record: Download, change: Callable[[Download], Download]) -> None:
        new = self.desk.store.downloads.update(record.id, lambda old: change(old) if old.is_live else old)
        if new.state is not record.state:
            log.info("download %s: %s -> %s %s", record.id, record.state, new.state, new.reason)
        if not new.is_live:
            self.send("look_at_disk", record.id)

    def _send(self, record: Download) -> None:
        now = time.monotonic()
        if now - self._sent.get(record.id, -ERRAND_AGAIN_S) < ERRAND_AGAIN_S:
            return
        self._sent[record.id] = now
        self.send("download" if record.stop_requested_at is None else "stop_download", record.id)

    def _progress(self, record: Download) -> Progress | None:
        """What the job says; None while it has said nothing, or another job did."""
        try:
            found = Progress.model_validate_json(self.desk.gateway.get(progress_file(self.desk, record)).data)
        except (RemoteFileMissing, ValidationError):
            return None
        return found if found.job_name == record.job_name else None

    def _with_hint(self, record: Download, progress: Progress | None) -> Progress | None:
        """Where the hub knows no such model, the catalog may know what was meant."""
        if progress is None or progress.kind != "unknown_model":
            return progress
        try:
            self.desk.catalog.find(record.model)
        except UnknownModel as exc:
            if exc.near:
                return progress.model_copy(update={"sentence": f"{progress.sentence}; perhaps {exc.near[0]}"})
        return progress

    def _word(self, record: Download) -> str:
        """Slurm's word about a job that is not queued any more, empty where it has forgotten it."""
        try:
            text = self.desk.gateway.run(slurm.show_job_argv(record.slurm_id or 0), timeout_s=LOOK_TIMEOUT_S).stdout
            row = slurm.parse_job(text)
        except (RemoteCommandFailed, SlurmOutputError):
            return ""
        return row.word if row.name == record.job_name else ""
