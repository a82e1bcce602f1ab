"""From records, the proxy's report and the site file to what `plan` reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bouchet_core.config.site import Site
from bouchet_core.deployments import Deployment, Ending, Job, Phase, Placement
from bouchet_core.placement import UserUsage
from bouchet_core.policy.weekly import Span
from bouchet_core.store.load import JobLoad, LoadReport

from bouchet_worker.reconcile.startup import READY, STEPS
from bouchet_worker.slurm.commands import warning_s
from bouchet_worker.slurm.parsing import MaintenanceWindow

from .estimates import QueueWait, answer_estimate, queue_estimate, startup_estimate
from .inputs import COMING, BudgetUse, JobEnd, JobView, RecordView, Rival, ServiceLimits, ServiceLoad


@dataclass(frozen=True)
class Surroundings:
    """What plans of all deployments have in common. queue_starts: when Slurm expects a new job, by deployment."""

    site: Site
    report: LoadReport | None
    demand: Mapping[str, datetime]
    usage: Mapping[str, UserUsage]
    observed_at: datetime
    slots_free: int
    now: datetime
    queue_starts: Mapping[str, datetime] = field(default_factory=dict)
    maintenance: Sequence[MaintenanceWindow] = ()
    budgets: Mapping[str, Sequence[BudgetUse]] = field(default_factory=dict)
    # tokens a second of slow answers, by deployment
    speeds: Mapping[str, float] = field(default_factory=dict)


def record_view(record: Deployment, placement: Placement, around: Surroundings) -> RecordView:
    """Return what the record says. placement: that of its next job."""
    request = record.request
    idle_min = around.site.idle_timeout_min if request.idle_timeout_min is None else request.idle_timeout_min
    service = record.service
    return RecordView(
        id=record.id,
        alias=record.alias,
        policy=record.policy,
        jobs=tuple(job_view(job, around.report) for job in record.live_jobs if job.stop_requested_at is None),
        gpus=placement.held_gpus,
        walltime_s=float(placement.walltime_s),
        idle_s=idle_min * 60.0,
        failed_starts=len(failed_starts(record)),
        last_end=last_end(record),
        paused=service.paused,
        is_stopping=record.stop_requested_at is not None,
        parked_at=service.parked_at,
        warned_for=service.warned_at,
    )


def job_view(job: Job, report: LoadReport | None) -> JobView:
    """Return one live job. Its requests count as open until the proxy reports otherwise."""
    since, load = job.since, report.jobs.get(job.name) if report is not None else None
    deadline = job.deadline
    warned = timedelta(seconds=warning_s(job.placement.walltime_s)) if job.placement is not None else timedelta()
    is_known = report is not None and (
        job.leaving_since is None or (report.table_at is not None and report.table_at > job.leaving_since)
    )
    return JobView(
        name=job.name,
        phase=job.phase,
        gpus=job.placement.held_gpus if job.placement is not None else 0,
        submitted_at=_submitted_at(job),
        started_at=None if deadline is None else since.get(Phase.STARTING),
        # after Slurm's warning the job takes no new requests
        ends_at=None if deadline is None else deadline - warned,
        ready_at=since.get(Phase.READY),
        begin_at=job.begin_at,
        start_estimate=job.start_estimate,
        open_streams=(load.open if load is not None else 0) if is_known or job.phase in COMING else 1,
        last_request_end=load.last_end if load is not None else None,
        leaving_since=job.leaving_since,
        replaces=job.replaces,
    )


def load_view(record: Deployment, around: Surroundings) -> ServiceLoad:
    """Return what clients ask of the deployment."""
    report = around.report
    ends = [load.last_end for name, load in _loads(record, report).items() if load.last_end is not None]
    return ServiceLoad(
        held=report.held.get(record.id, 0) if report is not None else 0,
        demand_at=around.demand.get(record.id),
        last_request_end=max(ends, default=None),
    )


def limits_view(
    record: Deployment, placement: Placement, around: Surroundings, others: Sequence[Deployment]
) -> ServiceLimits:
    """Return what the cluster allows and expects for the deployment's next job."""
    partition = next((one for one in around.site.partitions if one.name == placement.partition), None)
    used = around.usage.get(placement.partition, UserUsage())
    return ServiceLimits(
        observed_at=around.observed_at,
        max_gpus=partition.max_gpus if partition is not None else None,
        max_running=partition.max_running if partition is not None else None,
        max_submitted=partition.max_submitted if partition is not None else None,
        gpus_in_use=used.gpus,
        running=used.running,
        submitted=used.submitted,
        slots_free=around.slots_free,
        queue_s=queue_s(record, placement, around.queue_starts.get(record.id), around.now),
        startup_s=startup_s(record),
        is_start_measured=any(READY in job.times for job in record.jobs),
        longest_answer_s=answer_estimate(record.traits.max_output, _speeds(record, around)).safe_s,
        budgets=around.budgets.get(record.id, ()),
        maintenance=tuple(
            Span(window.start, window.end)
            for window in around.maintenance
            if window.partition in ("", placement.partition)
        ),
        rivals=tuple(rival for other in others if (rival := _rival(other, around)) is not None),
    )


def _speeds(record: Deployment, around: Surroundings) -> tuple[float, ...]:
    """Return the measured speed of its slow answers, none where none was measured."""
    found = around.speeds.get(record.id)
    return () if found is None else (found,)


def startup_s(record: Deployment) -> float:
    """Return how long a model takes from the job's start to ready: the slowest of its last starts."""
    measured = [
        sum(seconds for step, seconds in job.times.items() if step in STEPS and step != "queue")
        for job in sorted(record.jobs, key=_number)
        if READY in job.times
    ]
    return startup_estimate(measured).safe_s


def queue_s(record: Deployment, placement: Placement, slurm_start: datetime | None, now: datetime) -> float:
    """Return how long its next job may wait. slurm_start: when Slurm expects such a job to start; None: not known."""
    history = [
        QueueWait(job.placement.partition, job.placement.gpus, job.times["queue"])
        for job in sorted(record.jobs, key=_number)
        if "queue" in job.times and job.placement is not None and job.begin_at is None
    ]
    return queue_estimate(placement.partition, placement.gpus, history, slurm_start=slurm_start, now=now).safe_s


def failed_starts(record: Deployment) -> list[Job]:
    """Return the jobs, the last ones in a row, that ended by themselves before they were ready."""
    changed_at = record.service.changed_at
    failed: list[Job] = []
    for job in sorted(record.jobs, key=_number):
        if Phase.READY in job.since:
            failed = []
        elif not job.is_live and job.stop_requested_at is None:
            ended_at = job.since.get(Phase.ENDED)
            if changed_at is None or ended_at is None or ended_at > changed_at:
                failed.append(job)
    return failed


def last_end(record: Deployment) -> JobEnd | None:
    """Return how the last job ended that its policy did not end."""
    ended = [
        (at, job)
        for job in record.jobs
        if job.stop_requested_at is None and (at := job.since.get(Phase.ENDED)) is not None and not job.is_live
    ]
    if not ended:
        return None
    at, job = max(ended, key=lambda pair: pair[0])
    return JobEnd(at, job.reason, was_idle=job.ending is Ending.IDLE)


def _number(job: Job) -> int:
    tail = job.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0


def _submitted_at(job: Job) -> datetime:
    times = [job.since[phase] for phase in (Phase.QUEUED, Phase.SUBMITTING, Phase.REQUESTED) if phase in job.since]
    return max(times) if times else min(job.since.values(), default=job.asked_at or _NEVER)


_NEVER = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _loads(record: Deployment, report: LoadReport | None) -> Mapping[str, JobLoad]:
    names = {job.name for job in record.jobs}
    return {name: load for name, load in report.jobs.items() if name in names} if report is not None else {}


def _rival(other: Deployment, around: Surroundings) -> Rival | None:
    """Return another deployment that holds GPUs, or is about to, None if it does not."""
    holding = [job for job in other.live_jobs if job.placement is None or job.placement.gpus]
    if not holding or other.attached is not None:
        return None
    policy, loads = other.policy, _loads(other, around.report)
    loading = any(job.phase in COMING for job in holding)
    held = around.report.held.get(other.id, 0) if around.report is not None else 1
    return Rival(
        id=other.id,
        alias=other.alias,
        gpus=sum(job.placement.held_gpus for job in holding if job.placement is not None),
        ready_at=None if loading else max((job.since.get(Phase.READY, _NEVER) for job in holding), default=None),
        last_request_end=max((load.last_end for load in loads.values() if load.last_end), default=None),
        startup_s=startup_s(other),
        open_streams=sum(load.open for load in loads.values()) + held,
        may_park=policy.on_demand and not policy.renews and policy.hours is None,
        exclusive_group=policy.exclusive_group,
    )
