"""The errands that fetch a model to the cluster and that stop it. Every step may be the last one before a crash.

One job a model: sbatch is called only under the model's lease, never while a job that fetches the model is there (it is
adopted, whoever submitted it) or may still arrive.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bouchet_core.downloads import Download, DownloadState, fetches, job_name_of
from bouchet_core.errors import (
    ConfigurationError,
    CouldNotAsk,
    GatewayError,
    LaunchRefused,
    NotAllowed,
    RemoteCommandFailed,
    RemoteRefused,
    SlurmOutputError,
    UnknownDownload,
)
from bouchet_core.models import Job

from . import slurm
from .desk import Desk
from .download_job import PROGRAM, SCRIPT, files_for, placement_for
from .queue_look import find_job, may_still_arrive, queue_rows
from .refusals import refusal_in_words
from .staging import stage_luggage

log = logging.getLogger(__name__)

LEASE_S = 90.0
SBATCH_TIMEOUT_S = 30.0
_HOPELESS = (LaunchRefused, ConfigurationError, NotAllowed, RemoteRefused)


def download(desk: Desk, identity: str) -> str:
    """Submits the job, or adopts the one that is there. Says in a word what came of it."""
    try:
        record = desk.store.downloads.get(identity)
    except UnknownDownload:
        return "no such download"
    lease = f"download:{record.model}"
    if not _is_wanted(record) or not desk.store.lease(lease, desk.owner, LEASE_S):
        return "nothing to do"
    try:
        return _start(desk, desk.store.downloads.get(identity))
    except _HOPELESS as exc:
        _end(desk, identity, DownloadState.FAILED, str(exc), exc.kind)
        return "failed"
    except (GatewayError, SlurmOutputError) as exc:
        waits = "waits for the SSH connection" if isinstance(exc, CouldNotAsk) else "will be tried again"
        log.warning("download %s: %s: %s", identity, waits, exc)
        _note(desk, identity, f"{waits}: {exc}")
        return "later"
    finally:
        desk.store.release(lease, desk.owner)


def stop_download(desk: Desk, identity: str) -> str:
    """Ends the job by its id; what has come is kept. The record ends when the job has."""
    record = desk.store.downloads.update(
        identity,
        lambda old: (
            old.changed(desk.now(), stop_requested_at=old.stop_requested_at or desk.now()) if old.is_live else old
        ),
    )
    if not record.is_live:
        return "has ended"
    try:
        return _stop(desk, record)
    except (GatewayError, SlurmOutputError) as exc:
        _note(desk, identity, f"being cancelled, as soon as the cluster can be asked: {exc}")
        return "later"


def _wanted_no_more(old: Download, desk: Desk) -> Download:
    return old.changed(desk.now(), stop_requested_at=old.stop_requested_at or desk.now()) if old.is_live else old


def _is_wanted(record: Download) -> bool:
    return record.is_live and record.slurm_id is None and record.stop_requested_at is None


def _start(desk: Desk, record: Download) -> str:
    if not _is_wanted(record):
        return "nothing to do"
    record = _named(desk, record)
    if desk.site.download_on == "login":
        return _start_on_login_node(desk, record)
    rows = queue_rows(desk)
    there = _job_there(desk, record, rows)
    if there is None and may_still_arrive(desk, _as_job(record)):
        _note(desk, record.id, "sbatch has not answered; looking whether the job arrived")
        return "later"
    if there is None:
        placement_for(desk.site)
        _stage(desk, record)
        there = _sbatch(desk, record)
    _take(desk, record.id, *there)
    log.info("download %s: Slurm job %s (%s)", record.id, *there)
    return f"job {there[0]}"


def _named(desk: Desk, record: Download) -> Download:
    name = job_name_of(record.model, record.id)
    return desk.store.downloads.update(record.id, lambda old: old.changed(desk.now(), job_name=name))


def _job_there(desk: Desk, record: Download, rows: Sequence[slurm.QueueRow]) -> tuple[int, str] | None:
    """Id and name of a job that fetches this model: this record's, or one whose record is lost."""
    own = find_job(desk, _as_job(record), rows)
    if own is not None:
        return own, record.job_name
    return next(((row.job_id, row.name) for row in rows if fetches(row.name, record.model)), None)


def _stage(desk: Desk, record: Download) -> None:
    stage_luggage(desk)
    for name, content in files_for(record, desk).items():
        desk.gateway.put(f"{desk.layout.job(record.job_name)}/{name}", content)


def _sbatch(desk: Desk, record: Download) -> tuple[int, str]:
    desk.store.downloads.update(record.id, lambda old: old.changed(desk.now(), asked_at=desk.now()))
    job_dir, folder = desk.layout.job(record.job_name), desk.layout.luggage(desk.luggage.digest)
    argv = slurm.sbatch_argv(
        placement_for(desk.site), record.job_name, desk.layout.log("%j"), f"{folder}/{SCRIPT}", [job_dir, folder]
    )
    try:
        return slurm.parse_job_id(desk.gateway.run(argv, timeout_s=SBATCH_TIMEOUT_S).stdout), record.job_name
    except RemoteCommandFailed as exc:
        if slurm.may_have_submitted(exc.stderr) or slurm.is_busy(exc.stderr):
            raise
        raise LaunchRefused(refusal_in_words(exc.stderr)) from exc


def _start_on_login_node(desk: Desk, record: Download) -> str:
    """Beside the SSH session. Starting it twice does no harm: the second one sees the first."""
    _stage(desk, record)
    job_dir, folder = desk.layout.job(record.job_name), desk.layout.luggage(desk.luggage.digest)
    log_file = desk.layout.log(record.job_name)
    argv = ["python3", f"{folder}/{PROGRAM}", "detach", job_dir, folder, log_file]
    said = desk.gateway.run(argv, timeout_s=SBATCH_TIMEOUT_S).stdout.strip()
    reason = "starting on the login node"

    def change(old: Download) -> Download:
        return old.changed(desk.now(), asked_at=desk.now(), log=log_file, reason=old.reason or reason)

    desk.store.downloads.update(record.id, change)
    log.info("download %s: on the login node: %s", record.id, said)
    return said


def _stop(desk: Desk, record: Download) -> str:
    if desk.site.download_on == "login" and record.asked_at is not None:
        desk.gateway.put(f"{desk.layout.job(record.job_name)}/stop", b"")
        _note(desk, record.id, "being cancelled")
        return "told to stop"
    rows = queue_rows(desk)
    there = (record.slurm_id, record.job_name) if record.slurm_id else _job_there(desk, record, rows)
    if there is None:
        if may_still_arrive(desk, _as_job(record)):
            return "later"
        _end(desk, record.id, DownloadState.CANCELLED, "cancelled before it was submitted")
        return "cancelled before it was submitted"
    if any((row.job_id, row.name) == there for row in rows):
        desk.gateway.run(slurm.scancel_argv(there[0]), timeout_s=SBATCH_TIMEOUT_S)
        log.info("download %s: scancel %s", record.id, there[0])
    if record.slurm_id is None:
        _take(desk, record.id, *there)
    _note(desk, record.id, "being cancelled")
    return f"cancelled job {there[0]}"


# records


def _as_job(record: Download) -> Job:
    """The record as the finders of jobs know jobs; it has no slot."""
    fields = {"name": record.job_name, "slot": -1, "slurm_id": record.slurm_id, "asked_at": record.asked_at}
    return Job.model_validate(fields)


def _take(desk: Desk, identity: str, job_id: int, name: str) -> None:
    def change(old: Download) -> Download:
        log_file = desk.layout.log(job_id)
        return old.changed(desk.now(), slurm_id=job_id, job_name=name, log=log_file, reason="submitted")

    desk.store.downloads.update(identity, change)


def _note(desk: Desk, identity: str, reason: str) -> None:
    desk.store.downloads.update(identity, lambda old: old.changed(desk.now(), reason=reason) if old.is_live else old)


def _end(desk: Desk, identity: str, state: DownloadState, reason: str, kind: str = "") -> None:
    log.info("download %s: %s: %s", identity, state, reason)
    desk.store.downloads.update(
        identity, lambda old: old.ended(desk.now(), state, reason, kind) if old.is_live else old
    )
