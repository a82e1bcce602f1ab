"""Downloads of models: a kind of batch job (see batch_job.py), and its tasks."""

from __future__ import annotations

from collections.abc import Mapping

from bouchet_core.downloads import Download, job_name_of
from bouchet_core.errors import UnknownModelError
from bouchet_core.tasks import TaskName

from bouchet_worker.context import WorkerContext

from .download_output import PROGRAM, files_for, placement_for
from .submit import Kind, Progress, start, stop


class DownloadProgress(Progress):
    """What a download's job counts."""

    commit: str | None = None
    bytes: int = 0
    total_bytes: int | None = None
    files: int = 0
    total_files: int | None = None
    rate: int = 0


def download(context: WorkerContext, identity: str) -> str:
    """Submits the job, or adopts the one that is there. Says in a word what came of it."""
    return start(context, DOWNLOADS, identity)


def stop_download(context: WorkerContext, identity: str) -> str:
    """Ends the job by its id; what has come is kept. The record ends when the job has."""
    return stop(context, DOWNLOADS, identity)


def counts(progress: DownloadProgress) -> Mapping[str, object]:
    """What the record takes over."""
    left = (progress.total_bytes or 0) - progress.bytes
    found: dict[str, object] = {
        "bytes": progress.bytes,
        "total_bytes": progress.total_bytes,
        "files": progress.files,
        "total_files": progress.total_files,
        "rate": progress.rate,
        "eta_s": left // progress.rate if progress.rate > 0 and left > 0 else None,
    }
    # a later run need not know yet what an earlier one found out
    return {**found, "commit": progress.commit} if progress.commit else found


def hint(context: WorkerContext, record: Download, progress: DownloadProgress) -> DownloadProgress:
    """Where the hub knows no such model, the catalog may know what was meant."""
    if progress.kind != "unknown_model":
        return progress
    try:
        context.catalog.find(record.model)
    except UnknownModelError as exc:
        if exc.near:
            return progress.model_copy(update={"sentence": f"{progress.sentence}; perhaps {exc.near[0]}"})
    return progress


DOWNLOADS = Kind(
    word="download",
    records=lambda store: store.downloads,
    stem=lambda record: job_name_of(record.model, ""),
    files=files_for,
    placement=lambda _record, site: placement_for(site),
    on_login=lambda _record, site: site.download_on == "login",
    program=PROGRAM,
    start=TaskName.DOWNLOAD,
    stop=TaskName.CANCEL_DOWNLOAD,
    progress=DownloadProgress,
    counts=counts,
    cut_short=lambda record: f"what has come is kept, and `bouchet download {record.model}` goes on with it",
    cancelled=lambda record: "cancelled as asked" + ("; what has come is kept" if record.bytes else ""),
    idle={"rate": 0, "eta_s": None},
    hint=hint,
    after=TaskName.LIST_MODELS,
)
