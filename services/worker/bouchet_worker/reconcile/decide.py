"""What one look at the cluster means for one record: `decide`. Pure: no socket, no clock.

Total over phases and observations. "Could not ask" changes nothing, ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from bouchet_core.deployments import Deployment, Ending, Job, Phase
from bouchet_core.errors import SlurmOutputError
from bouchet_core.provenance import SmokeTest
from bouchet_core.tasks import TaskName

from bouchet_worker.slurm.commands import expand_nodes
from bouchet_worker.slurm.pending_reasons import reason_in_words, what_starts_sooner
from bouchet_worker.slurm.states import STATES, Meaning, State

from .endings import ending_of
from .observation import Answering, Connection, CouldNotLook, Health, Observed, SlurmKnowsNot, SlurmSays
from .startup_times import at_ready

# the API enqueues a task for a new record; after this long without a change it must have been lost
LOST_TASK = timedelta(seconds=3)
# a job just submitted, or just ended, may be in neither squeue nor accounting for a moment
VANISH_GRACE = timedelta(seconds=60)
# one slow answer under load is no news
FAILING_NEWS_S = 15.0
# Slurm cleans up in seconds; what takes longer is a node that does not answer
CLEAN_UP = timedelta(seconds=30)

TRYING = "it answers; trying it out: chat, stream, tools"
STRANGER = "another program answers on its port; it is sent nothing"
NEAR_ITS_END = "its end is near: answers under way finish, new requests are refused"

STUCK = "Slurm is still cleaning up after it on {node} (COMPLETING); it ends by itself once the node answers again"

_NOWHERE: Mapping[str, object] = {"node": None, "port": None, "socket": None, "loopback": False}
_NOT_CONNECTED: Mapping[str, object] = {**_NOWHERE, "progress": "", "times": {}, "smoke": None}


@dataclass(frozen=True)
class Decision:
    """What to change. None leaves a thing as it is; facts are fields of the current job."""

    phase: Phase | None = None
    ending: Ending | None = None
    reason: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    task: TaskName | None = None


NOTHING = Decision()


def decide(record: Deployment, observed: Observed, now: datetime) -> Decision:
    """The move that the look asks for. now: aware."""
    if record.phase is Phase.ENDED:
        return NOTHING
    job = record.job
    if job is None or job.slurm_id is None:
        return _unsubmitted(record, now)
    slurm = observed.slurm
    if isinstance(slurm, CouldNotLook):
        return NOTHING
    if isinstance(slurm, SlurmKnowsNot):
        return _vanished(record, job, observed, now)
    decision = _BY_MEANING[STATES[slurm.state].meaning](record, job, slurm, observed)
    if slurm.state is State.COMPLETING and _is_stuck(record, job, now):
        decision = replace(decision, reason=STUCK.format(node=job.node or "its node"))
    facts = {"slurm_state": slurm.word, **decision.facts}
    if decision.phase is Phase.READY:
        took = {**observed.took, **({"smoke": observed.smoke.took_s} if observed.smoke is not None else {})}
        facts["times"] = at_ready(job, took, now, slurm.start)
    return replace(decision, facts=facts)


def apply(record: Deployment, decision: Decision, now: datetime) -> Deployment:
    """The record after the decision, one version later; the very same record when nothing changes."""
    new = record
    if record.job is not None and decision.facts:
        job = record.job.model_copy(update=dict(decision.facts))
        new = new if job == record.job else new.with_job(job, now)
    phase = decision.phase or record.phase
    reason = decision.reason if decision.reason is not None else (record.reason if phase is record.phase else "")
    if phase is not record.phase or reason != record.reason:
        new = new.moved(phase, now, reason=reason, ending=decision.ending)
    return new if new is record else new.model_copy(update={"version": record.version + 1})


def _unsubmitted(record: Deployment, now: datetime) -> Decision:
    if now - record.updated_at < LOST_TASK:
        return NOTHING
    return Decision(task=TaskName.SUBMIT if record.stop_requested_at is None else TaskName.CANCEL)


def _waiting(record: Deployment, job: Job, slurm: SlurmSays, observed: Observed) -> Decision:
    if record.stop_requested_at is not None:
        phase = None if record.phase is Phase.DRAINING else Phase.QUEUED
        return Decision(phase, reason="being cancelled", facts=_NOT_CONNECTED, task=TaskName.CANCEL)
    sooner = what_starts_sooner(slurm.reason, job.placement)
    reason = reason_in_words(slurm.reason) + (f"; {sooner}" if sooner else "")
    if record.phase is not Phase.QUEUED:
        reason = f"Slurm put it back into the queue; {reason}"
    return Decision(Phase.QUEUED, reason=reason, facts={**_NOT_CONNECTED, "start_estimate": slurm.start})


def _running(record: Deployment, job: Job, slurm: SlurmSays, observed: Observed) -> Decision:
    facts = _connected(job, slurm, observed.connection)
    if record.stop_requested_at is not None:
        return Decision(_draining_from(record), reason="being cancelled", facts=facts, task=TaskName.CANCEL)
    if record.phase is Phase.QUEUED:
        return Decision(Phase.STARTING, reason="the job has started", facts=facts)
    if record.phase is Phase.STARTING:
        return _starting(job, observed, facts)
    if record.phase is Phase.READY:
        return _ready(job, observed, facts)
    return Decision(facts=facts)


def _starting(job: Job, observed: Observed, facts: Mapping[str, object]) -> Decision:
    health = observed.health
    if health is not None and health.answering is Answering.YES and job.listens:
        if observed.smoke_waits:
            return Decision(reason=TRYING, facts={**facts, "progress": TRYING})
        said = {"window": health.window or job.window, "vllm_version": health.vllm_version or job.vllm_version}
        tried = {**said, "smoke": observed.smoke, "progress": ""}
        return Decision(Phase.READY, reason=_words(observed.smoke), facts={**facts, **tried})
    progress = _trouble(health) or observed.progress or job.progress
    return Decision(reason=progress or None, facts={**facts, "progress": progress})


def _ready(job: Job, observed: Observed, facts: Mapping[str, object]) -> Decision:
    health = observed.health
    if health is not None and health.answering is Answering.DRAINING:
        return Decision(Phase.DRAINING, reason=NEAR_ITS_END, facts=facts)
    if observed.connection is not None and _place(observed.connection) != _place(job):
        return Decision(Phase.STARTING, reason="Slurm started it anew", facts={**facts, "smoke": None})
    if health is None:
        return Decision(facts=facts)
    if health.answering is Answering.YES:
        smoke = observed.smoke or job.smoke
        return Decision(reason=health.warning or _words(smoke), facts={**facts, "smoke": smoke})
    is_news = health.failing_s >= FAILING_NEWS_S
    words = _trouble(health) or "it does not answer its health check"
    return Decision(reason=words if is_news else None, facts=facts)


def _words(smoke: SmokeTest | None) -> str:
    """What a person must know of a model that is ready."""
    return smoke.words if smoke is not None else ""


def _paused(record: Deployment, job: Job, slurm: SlurmSays, observed: Observed) -> Decision:
    if record.stop_requested_at is not None:
        return Decision(_draining_from(record), reason="being cancelled", task=TaskName.CANCEL)
    phase = Phase.STARTING if record.phase is Phase.QUEUED else None
    return Decision(phase, reason=f"Slurm has stopped it for now ({slurm.word})")


def _finishing(record: Deployment, job: Job, slurm: SlurmSays, observed: Observed) -> Decision:
    reason = observed.end.sentence if observed.end is not None else None
    if record.phase is Phase.QUEUED:
        return Decision(reason=reason)
    return Decision(_draining_from(record), reason=reason)


def _is_stuck(record: Deployment, job: Job, now: datetime) -> bool:
    since = job.since.get(Phase.DRAINING)
    return record.phase is Phase.DRAINING and since is not None and now - since > CLEAN_UP


def _ended(record: Deployment, job: Job, slurm: SlurmSays, observed: Observed) -> Decision:
    ending, sentence = ending_of(record, job, slurm, observed.end)
    facts = {"exit_code": slurm.exit_code or None, "progress": "", "node": job.node or slurm.node}
    return Decision(Phase.ENDED, ending, sentence, facts)


def _vanished(record: Deployment, job: Job, observed: Observed, now: datetime) -> Decision:
    if observed.health is not None and observed.health.answering is not Answering.NO:
        # it answers, so it runs: accounting may be slow or switched off
        return NOTHING
    since = job.since.get(record.phase, record.updated_at)
    if observed.end is None and now - since < VANISH_GRACE:
        return NOTHING
    ending, sentence = ending_of(record, job, None, observed.end)
    return Decision(Phase.ENDED, ending, sentence, {"progress": ""})


def _trouble(health: Health | None) -> str:
    """What keeps us from it, other than that it does not answer."""
    if health is None:
        return ""
    return STRANGER if health.stranger else health.no_way


def _draining_from(record: Deployment) -> Phase | None:
    return Phase.DRAINING if record.phase in (Phase.STARTING, Phase.READY) else None


def _connected(job: Job, slurm: SlurmSays, connection: Connection | None) -> dict[str, object]:
    """What the job's own file adds to the record. A file of another run of the job does not reach here."""
    times = {**job.times, **_waited(job, slurm, connection)}
    if connection is None:
        return {"times": times} if job.node else {"node": slurm.node, "times": times}
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
    }


def _nodes(connection: Connection) -> tuple[str, ...]:
    """All nodes of the job, as far as Slurm's list can be read."""
    try:
        return tuple(expand_nodes(connection.nodelist or connection.node))
    except SlurmOutputError:
        return (connection.node,)


def _place(of: Job | Connection) -> tuple[str | None, int | None, str | None]:
    """Where a vLLM listens."""
    return of.node, of.port, of.socket


def _waited(job: Job, slurm: SlurmSays, connection: Connection | None) -> dict[str, float]:
    """Seconds in the queue, and until the container was started, by the cluster's own clocks."""
    found: dict[str, float] = {}
    if slurm.waited_s is not None and "queue" not in job.times:
        found["queue"] = slurm.waited_s
    if connection is not None and connection.started_at is not None and slurm.start is not None:
        found["image"] = max(0.0, connection.started_at - slurm.start.timestamp())
    return found


_BY_MEANING = {
    Meaning.WAITING: _waiting,
    Meaning.RUNNING: _running,
    Meaning.PAUSED: _paused,
    Meaning.ENDING: _finishing,
    Meaning.ENDED: _ended,
}
