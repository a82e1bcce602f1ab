"""How a deployment is kept, as people see it: its policy, its jobs, and what the policy decided. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from bouchet_cli.client.deployments import DeploymentInfo
from bouchet_cli.client.http import Json

from .tables import duration, start_time

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
UNITS: Mapping[str, str] = {"gpu_hours": "GPU hours", "charge": "charge units"}
DECISIONS_SHOWN = 6
NO_POLICY = "one job that ends at its walltime; `bouchet keep NAME 2d` renews it"


def policy_text(policy: Json) -> str:
    """Return a policy as a sentence."""
    parts = [part for part in (_keep(policy), _demand(policy), _hours(policy), _replicas(policy)) if part]
    if policy.get("begin"):
        parts.append(f"from {_local(policy['begin'])}")
    if policy.get("budget"):
        budget = policy["budget"]
        parts.append(f"at most {budget['amount']:g} {UNITS.get(budget['unit'], budget['unit'])} a {budget['period']}")
    if policy.get("exclusive_group"):
        parts.append(f"shares GPUs with group {policy['exclusive_group']}")
    return "; ".join(parts) or NO_POLICY


def service_facts(deployment: DeploymentInfo, now: datetime) -> Iterator[tuple[str, str]]:
    """Return label and text of what is known of the policy and of further jobs."""
    raw = deployment.raw
    policy, service = raw.get("policy") or {}, raw.get("service") or {}
    if not _is_managed(policy):
        return
    yield "kept", policy_text(policy)
    for job in _other_jobs(raw):
        yield _role(job), _job_text(job, now)
    if service.get("paused"):
        yield "paused", service["paused"]
    elif service.get("waits"):
        yield "next", service["waits"]
    for decision in list(service.get("decisions") or ())[-DECISIONS_SHOWN:]:
        at = datetime.fromisoformat(decision["at"]).astimezone()
        yield "decided", f"{at:%a %H:%M} {str(decision['action']).replace('_', ' ')}: {decision['reason']}"


def policy_note(deployment: DeploymentInfo) -> str:
    """Return what happens at the end of a job, for a line of a list; empty where nothing follows it."""
    policy, service = deployment.raw.get("policy") or {}, deployment.raw.get("service") or {}
    if not _is_managed(policy) or deployment.phase == "ended":
        return ""
    if paused := service.get("paused"):
        return "" if paused in deployment.explanation else f"not renewed: {paused}"
    on_demand, hours = "on demand" if policy.get("on_demand") else "", "in its hours" if policy.get("hours") else ""
    parts = (_keep(policy), on_demand, hours)
    return "; ".join(part for part in parts if part)


def successor_note(deployment: DeploymentInfo, now: datetime) -> str:
    """Return the successor that is on its way, empty where there is none."""
    coming = [job for job in _other_jobs(deployment.raw) if job.get("replaces")]
    return f"successor {_job_text(coming[-1], now)}" if coming else ""


def time_left(job: Json, now: datetime) -> timedelta | None:
    """Return how long a job may still run, None if it has not started."""
    started, placement = (job.get("since") or {}).get("starting"), job.get("placement") or {}
    if not started or not placement or job.get("phase") in ("queued", "submitting", "ended"):
        return None
    return datetime.fromisoformat(started) + timedelta(seconds=placement["walltime_s"]) - now


def _is_managed(policy: Json) -> bool:
    return bool(policy.get("keep", "off") != "off" or policy.get("on_demand") or policy.get("hours"))


def _other_jobs(raw: Json) -> Sequence[Json]:
    """Return the live jobs beside the one that serves."""
    jobs: Sequence[Json] = raw.get("jobs") or ()
    return [job for job in jobs[:-1] if job.get("phase") != "ended"]


def _role(job: Json) -> str:
    if job.get("stop_requested_at") or job.get("leaving_since"):
        return "retiring"
    return "successor" if job.get("replaces") else "replica"


def _job_text(job: Json, now: datetime) -> str:
    name = f"job {job['slurm_id']}" if job.get("slurm_id") else "its job"
    parts = [f"{name} {job.get('phase')}"]
    estimate = job.get("start_estimate")
    if job.get("phase") == "queued" and estimate:
        parts.append(f"starts {start_time(datetime.fromisoformat(estimate), now)}")
    left = time_left(job, now)
    if left is not None:
        parts.append(f"{duration(left.total_seconds())} left")
    return ", ".join(parts)


def _keep(policy: Json) -> str:
    keep = policy.get("keep", "off")
    if keep == "forever":
        return "renewed until you end it"
    return "" if keep == "off" else f"renewed until {_local(keep)}"


def _demand(policy: Json) -> str:
    return "on demand: parked while no request comes" if policy.get("on_demand") else ""


def _hours(policy: Json) -> str:
    hours = policy.get("hours")
    if not hours:
        return ""
    windows = [
        f"{','.join(DAYS[day] for day in window['days'])} {_clock(window['start'])}-{_clock(window['end'])}"
        for window in hours["windows"]
    ]
    return f"in its hours {'; '.join(windows)} ({hours['zone']})"


def _replicas(policy: Json) -> str:
    low, high = ((policy.get("replicas") or {}).get(end, 1) for end in ("low", "high"))
    return "" if high == 1 else f"{low} replicas" if low == high else f"{low} to {high} replicas"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _local(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}"
