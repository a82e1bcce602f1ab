"""What the result of one check means for one record: `decide`. Pure: no socket, no clock.

Total over phases and observations. A failed query never changes a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from bouchet_core.deployments import Deployment, Ending, Job, Phase
from bouchet_core.errors import SlurmOutputError
from bouchet_core.provenance import SmokeTest
from bouchet_core.tasks import TaskName

from bouchet_worker.slurm.parsing import expand_nodes
from bouchet_worker.slurm.pending_reasons import describe_pending_reason, suggest_earlier_start
from bouchet_worker.slurm.states import STATES, State, StateClass
from bouchet_worker.task_queue import LOST_TASK

from .endings import classify_ending
from .observation import (
    AccountingBehind,
    ConnectionFile,
    HealthReport,
    HealthStatus,
    JobNotFound,
    JobStatus,
    Observed,
    QueryFailed,
)
from .startup import all_steps, latest_progress, startup_times

# a job just submitted, or just ended, may be in neither squeue nor accounting for a moment
NOT_FOUND_GRACE = timedelta(seconds=60)
# accounting that has not recorded a job's end by now has lost it
BEHIND_GRACE = timedelta(minutes=5)
# a server under load may miss one health check
FAILING_REPORT_S = 15.0
# Slurm cleans up in seconds; a node that does not respond takes longer
CLEANUP_GRACE = timedelta(seconds=30)

SMOKE_TESTING = "vLLM is up; running the smoke test: chat, stream, tools"
WRONG_SERVER = "another process listens on the job's port; no requests are sent to it"
HEALTH_FAILING = "vLLM does not respond to health checks"
DRAINING = "the job is about to end: running requests finish, new ones are rejected"
CANCELLING = "being cancelled"
BEHIND = (
    "slurmctld no longer knows job {job}, but accounting still reports {state}: this ends when its walltime is over; "
    "`bouchet cancel {id}` ends it sooner"
)
STUCK = "Slurm is still cleaning up the job on {node} (COMPLETING); it ends when the node responds again"

_NO_ENDPOINT: Mapping[str, object] = {"node": None, "port": None, "socket": None, "loopback": False}
_NOT_CONNECTED: Mapping[str, object] = {**_NO_ENDPOINT, "progress": "", "steps": (), "times": {}, "smoke": None}


@dataclass(frozen=True)
class Decision:
    """What to change; None keeps a value. job_changes: fields of the current job."""

    phase: Phase | None = None
    ending: Ending | None = None
    reason: str | None = None
    job_changes: Mapping[str, object] = field(default_factory=dict)
    task: TaskName | None = None
    # when the phase began, None: now
    at: datetime | None = None


NOTHING = Decision()


def decide(record: Deployment, observed: Observed, now: datetime) -> Decision:
    """Return the change that the observation asks for. now is timezone-aware."""
    if record.phase in (Phase.ENDED, Phase.PARKED) or record.attached is not None:
        return NOTHING
    job = record.job
    if job is None or job.slurm_id is None:
        return _not_submitted(record, now)
    status = observed.slurm
    if isinstance(status, QueryFailed):
        return NOTHING
    if isinstance(status, JobNotFound):
        return _not_found(record, job, observed, now)
    if isinstance(status, AccountingBehind):
        return _behind(record, job, status, observed, now)
    decision = _BY_STATE_CLASS[STATES[status.state].state_class](record, job, status, observed)
    if status.state is State.COMPLETING and _is_stuck(record, job, now):
        decision = replace(decision, reason=STUCK.format(node=job.node or "its node"))
    changes = {"slurm_state": status.state_text, **_moved_placement(job, status), **decision.job_changes}
    # Slurm counts from 0 again as soon as it has put a job back
    changes["run_s"] = status.run_s or None if STATES[status.state].state_class is StateClass.ENDING else None
    if decision.phase is Phase.READY:
        smoke = {"smoke": observed.smoke.took_s} if observed.smoke is not None else {}
        changes["times"] = startup_times(job, {**observed.engine_times, **smoke}, now, status.start)
    return replace(decision, job_changes=changes, at=_phase_began(job, status, decision.phase, now))


_OVER = (StateClass.ENDING, StateClass.ENDED)


def _phase_began(job: Job, status: JobStatus, phase: Phase | None, now: datetime) -> datetime | None:
    """Return when Slurm started or ended the job, by its count of seconds; None for other phases or without one.

    A check comes seconds later, or minutes after an outage: GPU time is not measured by checks.
    """
    state_class, started = STATES[status.state].state_class, job.since.get(Phase.STARTING)
    if status.run_s and phase is Phase.STARTING and state_class is StateClass.RUNNING:
        began = now - timedelta(seconds=status.run_s)
    elif status.run_s and started and phase in (Phase.DRAINING, Phase.ENDED) and state_class in _OVER:
        began = started + timedelta(seconds=status.run_s)
    elif phase is Phase.QUEUED and started and job.run_s is not None:
        # Slurm starts it again, and has cleaned up since the last check
        began = started + timedelta(seconds=job.run_s)
    else:
        return None
    return min(now, max([began, *job.since.values()]))


def apply(record: Deployment, decision: Decision, now: datetime) -> Deployment:
    """Return the record after the decision, one version later; the same object when nothing changes."""
    new = record
    if record.job is not None and decision.job_changes:
        job = record.job.model_copy(update=dict(decision.job_changes))
        new = new if job == record.job else new.with_job(job, now)
    phase = decision.phase or record.phase
    reason = decision.reason if decision.reason is not None else (record.reason if phase is record.phase else "")
    if phase is not record.phase or reason != record.reason:
        new = new.moved(phase, now, since=decision.at, reason=reason, ending=decision.ending)
    return new if new is record else new.model_copy(update={"version": record.version + 1})


def _moved_placement(job: Job, status: JobStatus) -> dict[str, object]:
    """Return the placement with the partition in which Slurm has the job, where the site or a person has changed it."""
    old, partition = job.placement, status.partition
    if old is None or not partition or "," in partition or partition in old.partition.split(","):
        return {}
    why = f"moved from {old.partition} to {partition} after it was submitted, by a rule of the site or with scontrol"
    return {"placement": old.model_copy(update={"partition": partition, "why": why})}


def _not_submitted(record: Deployment, now: datetime) -> Decision:
    if now - record.updated_at < LOST_TASK:
        return NOTHING
    return Decision(task=TaskName.SUBMIT if record.stop_requested_at is None else TaskName.CANCEL)


def _pending(record: Deployment, job: Job, status: JobStatus, observed: Observed) -> Decision:
    if record.stop_requested_at is not None:
        phase = None if record.phase is Phase.DRAINING else Phase.QUEUED
        return Decision(phase, reason=CANCELLING, job_changes=_NOT_CONNECTED, task=TaskName.CANCEL)
    sooner = suggest_earlier_start(status.reason, job.placement)
    reason = describe_pending_reason(status.reason) + (f"; {sooner}" if sooner else "")
    if record.phase is not Phase.QUEUED:
        reason = f"Slurm requeued the job; {reason}"
    return Decision(Phase.QUEUED, reason=reason, job_changes={**_NOT_CONNECTED, "start_estimate": status.start})


def _running(record: Deployment, job: Job, status: JobStatus, observed: Observed) -> Decision:
    changes = _connection_changes(job, status, observed.connection)
    if observed.steps:
        changes["steps"] = all_steps(job.steps, observed.steps)
    if record.stop_requested_at is not None:
        return Decision(_draining_from(record), reason=CANCELLING, job_changes=changes, task=TaskName.CANCEL)
    if record.phase is Phase.QUEUED:
        return Decision(Phase.STARTING, reason="the job has started", job_changes=changes)
    if record.phase is Phase.STARTING:
        return _starting(job, observed, changes)
    if record.phase is Phase.READY:
        return _ready(job, observed, changes)
    return Decision(job_changes=changes)


def _starting(job: Job, observed: Observed, changes: Mapping[str, object]) -> Decision:
    health = observed.health
    if health is not None and health.status is HealthStatus.HEALTHY and job.listens:
        if observed.smoke_pending:
            return Decision(reason=SMOKE_TESTING, job_changes={**changes, "progress": SMOKE_TESTING})
        measured = {
            "window": health.window or job.window,
            "vllm_version": health.vllm_version or job.vllm_version,
            "smoke": observed.smoke,
            "progress": "",
        }
        return Decision(Phase.READY, reason=_smoke_failures(observed.smoke), job_changes={**changes, **measured})
    progress = _access_problem(health) or latest_progress(job.progress, observed.progress)
    return Decision(reason=progress or None, job_changes={**changes, "progress": progress})


def _ready(job: Job, observed: Observed, changes: Mapping[str, object]) -> Decision:
    health = observed.health
    if health is not None and health.status is HealthStatus.DRAINING:
        return Decision(Phase.DRAINING, reason=DRAINING, job_changes=changes)
    if observed.connection is not None and _endpoint(observed.connection) != _endpoint(job):
        return Decision(Phase.STARTING, reason="Slurm restarted the job", job_changes={**changes, "smoke": None})
    if health is None:
        return Decision(job_changes=changes)
    if health.status is HealthStatus.HEALTHY:
        smoke = observed.smoke or job.smoke
        return Decision(reason=health.warning or _smoke_failures(smoke), job_changes={**changes, "smoke": smoke})
    reported = health.failing_s >= FAILING_REPORT_S
    return Decision(reason=(_access_problem(health) or HEALTH_FAILING) if reported else None, job_changes=changes)


def _smoke_failures(smoke: SmokeTest | None) -> str:
    """Return what failed in the smoke test of a ready model, empty when nothing did."""
    return smoke.summary if smoke is not None else ""


def _paused(record: Deployment, job: Job, status: JobStatus, observed: Observed) -> Decision:
    if record.stop_requested_at is not None:
        return Decision(_draining_from(record), reason=CANCELLING, task=TaskName.CANCEL)
    phase = Phase.STARTING if record.phase is Phase.QUEUED else None
    return Decision(phase, reason=f"Slurm has suspended the job ({status.state_text})")


def _ending(record: Deployment, job: Job, status: JobStatus, observed: Observed) -> Decision:
    reason = observed.end_file.sentence if observed.end_file is not None else None
    if record.phase is Phase.QUEUED:
        return Decision(reason=reason)
    return Decision(_draining_from(record), reason=reason)


def _is_stuck(record: Deployment, job: Job, now: datetime) -> bool:
    since = job.since.get(Phase.DRAINING)
    return record.phase is Phase.DRAINING and since is not None and now - since > CLEANUP_GRACE


def _ended(record: Deployment, job: Job, status: JobStatus, observed: Observed) -> Decision:
    ending, sentence = classify_ending(record, job, status, observed.end_file)
    changes = {"exit_code": status.exit_code or None, "progress": "", "node": job.node or status.node}
    return Decision(Phase.ENDED, ending, sentence, changes)


def _not_found(record: Deployment, job: Job, observed: Observed, now: datetime) -> Decision:
    if observed.health is not None and observed.health.status is not HealthStatus.FAILING:
        # it answers, so it runs: accounting may be slow or switched off
        return NOTHING
    since = job.since.get(record.phase, record.updated_at)
    if observed.end_file is None and now - since < NOT_FOUND_GRACE:
        return NOTHING
    ending, sentence = classify_ending(record, job, None, observed.end_file)
    return Decision(Phase.ENDED, ending, sentence, {"progress": ""})


def _behind(record: Deployment, job: Job, status: AccountingBehind, observed: Observed, now: datetime) -> Decision:
    """End a job that slurmctld has forgotten once accounting cannot be right any more; report it until then."""
    if observed.health is not None and observed.health.status is not HealthStatus.FAILING:
        return NOTHING
    since = job.since.get(Phase.STARTING, job.since.get(record.phase, record.updated_at))
    walltime = timedelta(seconds=job.placement.walltime_s if job.placement else 0)
    is_past_walltime = job.placement is not None and now - since > walltime + BEHIND_GRACE
    stopped = record.stop_requested_at
    if is_past_walltime or (stopped is not None and now - stopped > BEHIND_GRACE):
        ending, sentence = classify_ending(record, job, None, observed.end_file)
        return Decision(
            Phase.ENDED, ending, f"{sentence} (accounting still reports {status.state_text})", {"progress": ""}
        )
    if now - job.since.get(record.phase, record.updated_at) < BEHIND_GRACE:
        return NOTHING
    return Decision(reason=BEHIND.format(job=job.slurm_id, state=status.state_text, id=record.id))


def _access_problem(health: HealthReport | None) -> str:
    """Return why the server cannot be used although it may run, empty when it only does not answer yet."""
    if health is None:
        return ""
    return WRONG_SERVER if health.wrong_server else health.unreachable_reason


def _draining_from(record: Deployment) -> Phase | None:
    return Phase.DRAINING if record.phase in (Phase.STARTING, Phase.READY) else None


def _connection_changes(job: Job, status: JobStatus, connection: ConnectionFile | None) -> dict[str, object]:
    """Return what the job's connection file adds to the record. A file of another run of the job never gets here."""
    times = {**job.times, **_times_before_start(job, status, connection)}
    if connection is None:
        return {"times": times} if job.node else {"node": status.node, "times": times}
    return {
        "times": times,
        "node": connection.node,
        "port": connection.port,
        "socket": connection.socket,
        "loopback": connection.loopback,
        "image": connection.image,
        "image_sha256": connection.image_sha256,
        "model_revision": connection.model_revision,
        "vllm_version": job.vllm_version or connection.vllm,
        "torch_version": connection.torch,
        "gpus": connection.gpus,
        "driver": connection.driver,
        "command": connection.command or job.command,
        "nodes": _nodes(connection),
        "software": connection.software or job.software,
        "weights": connection.weights or job.weights,
        "note": connection.note,
        "proves": connection.proves,
        "resumes": connection.resumes,
    }


def _nodes(connection: ConnectionFile) -> tuple[str, ...]:
    """Return all nodes of the job, or the first one alone when Slurm's list cannot be parsed."""
    try:
        return tuple(expand_nodes(connection.nodelist or connection.node))
    except SlurmOutputError:
        return (connection.node,)


def _endpoint(of: Job | ConnectionFile) -> tuple[str | None, int | None, str | None]:
    return of.node, of.port, of.socket


def _times_before_start(job: Job, status: JobStatus, connection: ConnectionFile | None) -> dict[str, float]:
    """Return the seconds in the queue and until the container started, by the cluster's own clocks."""
    found: dict[str, float] = {}
    if status.waited_s is not None and "queue" not in job.times:
        found["queue"] = status.waited_s
    if connection is not None and connection.started_at is not None and status.start is not None:
        found["image"] = max(0.0, connection.started_at - status.start.timestamp())
    return found


_BY_STATE_CLASS = {
    StateClass.WAITING: _pending,
    StateClass.RUNNING: _running,
    StateClass.PAUSED: _paused,
    StateClass.ENDING: _ending,
    StateClass.ENDED: _ended,
}
