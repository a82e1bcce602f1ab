"""Records of deployments, and events about them. All values are frozen.

A deployment keeps one model served under its names; each Slurm job is one attempt at that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from bouchet_core.errors import IllegalTransitionError
from bouchet_core.policy import OFF, Policy
from bouchet_core.provenance import LaunchPins
from bouchet_core.values import FrozenModel

from .attached import AttachedServer
from .jobs import LEGAL_MOVES, Ending, Job, LaunchRequest, Phase, Traits

# the further a job is, the more it says about its deployment
_PROGRESS = (
    *(Phase.READY, Phase.STARTING, Phase.DRAINING, Phase.QUEUED, Phase.SUBMITTING, Phase.REQUESTED),
    *(Phase.PARKED, Phase.ENDED),
)
# ended jobs that a record keeps; the ledger knows the older ones
ENDED_JOBS_KEPT = 8
DECISIONS_KEPT = 30
DETACHED = "detached; the server itself goes on"
USED_DAYS_KEPT = 40


class PlanDecision(FrozenModel):
    """One entry of a deployment's decision log: what its policy asked for, and why."""

    at: datetime
    action: str
    reason: str
    job: str = Field(default="", description="name of the job that it is about")


class ServiceState(FrozenModel):
    """What the policy of a deployment has come to: why it submits nothing, and what it decided last."""

    changed_at: datetime | None = Field(default=None, description="when the policy was last set or resumed")
    parked_at: datetime | None = Field(default=None, description="since when it is parked")
    paused: str = Field(default="", description="why nothing more is submitted until a person resumes it")
    warned_at: datetime | None = Field(default=None, description="when the budget's warning was last given")
    used: Mapping[str, float] = Field(
        default_factory=dict, description="GPU seconds of ended jobs that are no longer listed, by day in UTC"
    )
    waits: str = Field(default="", description="what the policy waits for")
    decisions: tuple[PlanDecision, ...] = Field(default=(), description="its last decisions, oldest first")


class Deployment(FrozenModel):
    """The record of one deployment. `version` counts its changes; a save must know the version it replaces.

    Without a policy it has one job, and their phases are the same. With one it may have several: its phase is that of
    the job that serves. Whatever concerns one job works on an attempt, which is the record as if it had that job alone.
    """

    id: str
    model: str = Field(description="Hugging Face id")
    names: tuple[str, ...] = Field(description="every name it is served under; the first is the alias")
    request: LaunchRequest
    traits: Traits = Traits()
    entry: Mapping[str, Any] = Field(default_factory=dict, description="the catalog entry at the time of the launch")
    pins: LaunchPins | None = Field(default=None, description="of a relaunch: what it must find unchanged")
    attached: AttachedServer | None = Field(
        default=None, description="of a server that runs without a job of ours: `bouchet cancel` only detaches it"
    )
    launched_by: str = Field(default="", description="id of the other installation that launched it; it was adopted")
    phase: Phase = Phase.REQUESTED
    ending: Ending | None = None
    reason: str = Field(default="", description="why it is in this phase, and what to do about it")
    jobs: tuple[Job, ...] = Field(
        default=(), description="the last ended ones, then the live ones; the one that serves is the last"
    )
    policy: Policy = OFF
    service: ServiceState = ServiceState()
    stop_requested_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    version: int = 0

    @property
    def alias(self) -> str:
        """The short name, safe for every client."""
        return self.names[0]

    @property
    def served_as(self) -> str:
        """What its server calls the model: jobs of ours serve it under the alias."""
        return self.attached.model if self.attached is not None else self.alias

    @property
    def live_jobs(self) -> tuple[Job, ...]:
        """The jobs that have not ended, oldest first."""
        return tuple(job for job in self.jobs if job.is_live)

    @property
    def job(self) -> Job | None:
        """The job that serves, else the one that will first, else the last one. None before the first."""
        live = self.live_jobs
        if not live:
            return self.jobs[-1] if self.jobs else None
        staying = [job for job in live if job.leaving_since is None and job.stop_requested_at is None] or live
        return min(reversed(staying), key=lambda job: _PROGRESS.index(job.phase))

    @property
    def job_name(self) -> str | None:
        """The name of that job."""
        return self.job.name if self.job is not None else None

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""
        return self.phase is not Phase.ENDED

    @property
    def stays(self) -> bool:
        """Whether it outlives its jobs: its policy submits the next one."""
        return self.policy.is_managed and self.stop_requested_at is None

    def with_job(self, job: Job, now: datetime) -> Deployment:
        """Return the next version with the job of that name replaced or added."""
        return self._changed(now, jobs=self._jobs_with(job))

    def moved(
        self,
        phase: Phase,
        now: datetime,
        *,
        since: datetime | None = None,
        reason: str = "",
        ending: Ending | None = None,
    ) -> Deployment:
        """Return the next version of an attempt in another phase, its job with it. since: when that began, if before.

        Raises IllegalTransitionError for a transition that LEGAL_MOVES lacks. The same phase only changes the reason.
        """
        if phase is not self.phase and phase not in LEGAL_MOVES[self.phase]:
            raise IllegalTransitionError(self.id, self.phase, phase)
        jobs = self.jobs
        if self.job is not None:
            times = self.job.since if phase is self.job.phase else {**self.job.since, phase: since or now}
            moved = {"phase": phase, "since": times, "reason": reason, "ending": ending}
            jobs = self._jobs_with(self.job.model_copy(update=moved))
        return self._changed(now, phase=phase, reason=reason, ending=ending, jobs=jobs)

    def attempts(self) -> tuple[Deployment, ...]:
        """Return one attempt for each live job; the record itself while its first job is not planned yet.

        An attached server has none: Slurm has no job of it. The first job of a record that stays is its policy's to
        plan.
        """
        live = self.live_jobs
        if self.attached is not None:
            return ()
        if not live:
            return (self,) if self.phase is Phase.REQUESTED and not self.jobs and not self.stays else ()
        return tuple(self._attempt(job) for job in live)

    def attempt(self, job_name: str | None) -> Deployment | None:
        """Return the attempt of that job, live or ended; without a name that of the job that serves, if there is one.

        None if the record does not have that job.
        """
        if job_name is None:
            return self if self.job is None else self._attempt(self.job)
        return next((self._attempt(job) for job in self.jobs if job.name == job_name), None)

    def with_attempt(self, attempt: Deployment) -> Deployment:
        """Return the record with that attempt's job in it, and its own phase derived from all of its jobs."""
        job = attempt.job
        if job is None:
            return attempt
        if attempt.stop_requested_at is not None and self.stop_requested_at is None and job.stop_requested_at is None:
            job = job.model_copy(update={"stop_requested_at": attempt.stop_requested_at})
        jobs, dropped = _without_oldest(self._jobs_with(job))
        changes: dict[str, object] = {"jobs": jobs}
        if dropped:
            changes["service"] = self.service.model_copy(update={"used": _with_used(self.service.used, dropped)})
        return self._changed(attempt.updated_at, **changes).settled()

    def settled(self) -> Deployment:
        """Return the record with the phase and reason that follow from its jobs."""
        job, service = self.job, self.service
        waits = Phase.PARKED if service.parked_at is not None or service.paused else Phase.REQUESTED
        if job is None:
            return self.model_copy(update={"phase": waits}) if self.stays else self
        changes: dict[str, object] = {"phase": job.phase, "reason": job.reason, "ending": job.ending}
        if not job.is_live and self.stays:
            changes = {"phase": waits, "reason": service.paused or self._last_decision or job.reason, "ending": None}
        others = sorted((one for one in self.jobs if one.name != job.name), key=lambda one: one.is_live)
        return self.model_copy(update={**changes, "jobs": (*others, job)})

    def asked_to_stop(self, now: datetime) -> Deployment:
        """Return the next version with a stop requested."""
        return self._changed(now, stop_requested_at=self.stop_requested_at or now)

    def ended(self, ending: Ending, now: datetime, reason: str) -> Deployment:
        """Return the next version, ended; its jobs have ended before."""
        return self._changed(now, phase=Phase.ENDED, ending=ending, reason=reason)

    def detached(self, now: datetime) -> Deployment:
        """Return the next version of an attached server that is not served any more; the server itself goes on."""
        return self.moved(Phase.ENDED, now, reason=DETACHED, ending=Ending.DETACHED) if self.is_live else self

    def with_service(self, now: datetime, **changes: object) -> Deployment:
        """Return the next version with these fields of its service state."""
        return self._changed(now, service=self.service.model_copy(update=changes))

    def with_decision(self, decision: PlanDecision) -> Deployment:
        """Return the next version with one more entry in the decision log."""
        return self.with_service(decision.at, decisions=(*self.service.decisions, decision)[-DECISIONS_KEPT:])

    @property
    def _last_decision(self) -> str:
        return self.service.decisions[-1].reason if self.service.decisions else ""

    def _attempt(self, job: Job) -> Deployment:
        view: dict[str, object] = {"jobs": (job,), "phase": job.phase, "reason": job.reason, "ending": job.ending}
        return self.model_copy(update={**view, "stop_requested_at": job.stop_requested_at or self.stop_requested_at})

    def _jobs_with(self, job: Job) -> tuple[Job, ...]:
        if any(one.name == job.name for one in self.jobs):
            return tuple(job if one.name == job.name else one for one in self.jobs)
        return (*self.jobs, job)

    def _changed(self, now: datetime, **fields: object) -> Deployment:
        return self.model_copy(update={**fields, "updated_at": now, "version": self.version + 1})


def gpu_seconds(job: Job, now: datetime) -> float:
    """Return the GPU seconds that a job has had allocated so far."""
    started = job.since.get(Phase.STARTING)
    if started is None or job.placement is None:
        return 0.0
    ended = now if job.is_live else job.since.get(Phase.ENDED, started)
    return max(0.0, (ended - started).total_seconds()) * job.placement.held_gpus


def _without_oldest(jobs: tuple[Job, ...]) -> tuple[tuple[Job, ...], tuple[Job, ...]]:
    """Return the jobs to keep, and the ended ones that are too many."""
    ended = [job for job in jobs if not job.is_live]
    dropped = tuple(ended[: max(0, len(ended) - ENDED_JOBS_KEPT)])
    return tuple(job for job in jobs if job not in dropped), dropped


def _with_used(used: Mapping[str, float], jobs: tuple[Job, ...]) -> Mapping[str, float]:
    """Return the sums with those of these ended jobs; a job counts on the day of its end."""
    sums = dict(used)
    for job in jobs:
        ended = job.since.get(Phase.ENDED)
        if ended is not None:
            day = ended.astimezone(UTC).date().isoformat()
            sums[day] = sums.get(day, 0.0) + gpu_seconds(job, ended)
    return dict(sorted(sums.items())[-USED_DAYS_KEPT:])


class Orphan(FrozenModel):
    """A Slurm job with a name of ours that no live record has."""

    slurm_id: int
    name: str = Field(description="Slurm's job name")
    state: str = Field(default="", description="Slurm's job state")
    partition: str = ""
    node: str | None = None
    model: str | None = Field(default=None, description="Hugging Face id; null if the job's files do not contain it")
    names: tuple[str, ...] = ()
    owner: Literal["this", "another", "unknown"] = Field(
        default="unknown", description="which installation of bouchet-llm launched it"
    )
    can_adopt: bool = True
    note: str = Field(default="", description="why it is an orphan")


class ClusterOutage(FrozenModel):
    """The worker's queries of the cluster fail; records show the state from before."""

    since: datetime
    detail: str = Field(description="which query failed, and how")


class DeploymentEvent(FrozenModel):
    """One change of one deployment. `id` is the id in the Redis stream."""

    id: str
    deployment: str
    phase: Phase
    ending: Ending | None = None
    reason: str = ""
    at: datetime
