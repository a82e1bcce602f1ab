"""A cluster at work, as records and figures: what the dashboard shows in tests and in the documents' pictures."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from bouchet_core.deployments import Deployment, Job, LaunchRequest, Phase, Placement
from bouchet_core.deployments.record import PlanDecision, ServiceState
from bouchet_core.ledger import JobEntry, JobSpan, SpanKind
from bouchet_core.live import FigurePoint, LiveRequest, LiveRequests, SeenError
from bouchet_core.policy import Policy
from bouchet_core.store import Store
from bouchet_core.store.load import JobLoad, LoadReport
from bouchet_core.tasks import HEARTBEAT

QWEN, GLM, KIMI, GPT = (
    "Qwen/Qwen3-Coder-Next-FP8",
    "zai-org/GLM-4.7-FP8",
    "moonshotai/Kimi-K2.7-Code",
    "openai/gpt-oss-120b",
)
SERVING_JOB = "bouchet-aaaaaaaaaaaa-1"


def placement(gpus: int, hours: float, partition: str = "gpu_h200") -> Placement:
    """Return the resources of a job."""
    return Placement(
        partition=partition,
        gpus=gpus,
        gpu_type="h200",
        cpus=6 * gpus,
        memory_gib=240 * gpus,
        walltime_s=int(hours * 3600),
    )


def serving(now: datetime) -> Deployment:
    """Return a deployment that is ready, whose successor waits in the queue."""
    began = now - timedelta(hours=3, minutes=12)
    times = {"queue": 240.0, "image": 2.0, "boot": 31.0, "load": 74.0, "compile": 48.0, "smoke": 4.0, "ready": 399.0}
    job = Job(
        name=SERVING_JOB,
        slot=0,
        slurm_id=812345,
        phase=Phase.READY,
        node="h07",
        port=21000,
        placement=placement(1, 4),
        since={
            Phase.QUEUED: began - timedelta(minutes=4),
            Phase.STARTING: began,
            Phase.READY: began + timedelta(minutes=3),
        },
        times=times,
        log="/data/bouchet/logs/812345.log",
        window=262_144,
    )
    successor = Job(
        name="bouchet-aaaaaaaaaaaa-2",
        slot=1,
        slurm_id=812399,
        phase=Phase.QUEUED,
        placement=placement(1, 4),
        replaces=SERVING_JOB,
        start_estimate=now + timedelta(minutes=22),
        reason="it waits for its priority",
        since={Phase.QUEUED: now - timedelta(minutes=6)},
    )
    decisions = (
        PlanDecision(
            at=now - timedelta(minutes=46), action="wait", reason="48 min are left, a successor needs about 30"
        ),
        PlanDecision(
            at=now - timedelta(minutes=6),
            action="submit",
            reason="successor submitted: 54 min left, the queue takes about 25 min and the start 5 min",
        ),
    )
    return record(
        "aaaaaaaaaaaa",
        QWEN,
        ("bouchet-qwen3-coder-next", QWEN),
        now - timedelta(hours=9),
        phase=Phase.READY,
        jobs=(successor, job),
        policy=Policy(keep="forever"),
        service=ServiceState(decisions=decisions),
    )


def starting(now: datetime) -> Deployment:
    """Return a deployment whose vLLM loads its weights."""
    began = now - timedelta(seconds=95)
    job = Job(
        name="bouchet-dddddddddddd-1",
        slot=3,
        slurm_id=812401,
        phase=Phase.STARTING,
        node="h11",
        placement=placement(1, 6),
        since={Phase.QUEUED: began - timedelta(seconds=70), Phase.STARTING: began},
        times={"queue": 70.0, "image": 3.0, "boot": 34.0},
        progress="loading weights: 9 of 14 files",
        log="/data/bouchet/logs/812401.log",
    )
    return record(
        "dddddddddddd", GPT, ("bouchet-gpt-oss", GPT), now - timedelta(minutes=3), phase=Phase.STARTING, jobs=(job,)
    )


def queued(now: datetime) -> Deployment:
    """Return a deployment that waits for eight GPUs."""
    reason = "it waits for nodes with enough free GPUs (Resources)"
    job = Job(
        name="bouchet-cccccccccccc-1",
        slot=2,
        slurm_id=812360,
        phase=Phase.QUEUED,
        placement=placement(8, 12),
        start_estimate=now + timedelta(hours=6, minutes=40),
        reason=reason,
        since={Phase.QUEUED: now - timedelta(hours=1)},
    )
    return record(
        "cccccccccccc",
        KIMI,
        ("bouchet-kimi-k2", KIMI),
        now - timedelta(hours=1),
        phase=Phase.QUEUED,
        jobs=(job,),
        reason=reason,
    )


def parked(now: datetime) -> Deployment:
    """Return a deployment without a job, which a request wakes."""
    service = ServiceState(
        parked_at=now - timedelta(hours=2),
        decisions=(PlanDecision(at=now - timedelta(hours=2), action="park", reason="no request for 30 min: parked"),),
    )
    return record(
        "bbbbbbbbbbbb",
        GLM,
        ("bouchet-glm-4.7", GLM),
        now - timedelta(days=1),
        phase=Phase.PARKED,
        policy=Policy(on_demand=True),
        service=service,
        reason="parked; a request wakes it, in about 6 min",
    )


def record(identity: str, model: str, names: tuple[str, ...], created: datetime, **fields: Any) -> Deployment:
    """Return a record with these fields."""
    return Deployment(
        id=identity,
        model=model,
        names=names,
        request=LaunchRequest(model=model),
        created_at=created,
        updated_at=datetime.now(UTC),
        **fields,
    )


def points(now: float, every_s: int = 15) -> list[FigurePoint]:
    """Return an hour of figures of a server that people use."""
    return [point(now - ago, ago) for ago in range(3590, -1, -every_s)]


def point(at: float, ago: float) -> FigurePoint:
    """Return what the server did at that time."""
    wave, ripple = 0.5 + 0.5 * math.sin(ago / 520), 0.5 + 0.5 * math.sin(ago / 47)
    running = round(1 + 4 * wave * ripple + 2 * wave)
    return FigurePoint(
        job=SERVING_JOB,
        deployment="aaaaaaaaaaaa",
        at=int(at),
        running=running,
        waiting=max(0, running - 6),
        kv=0.06 + 0.05 * running,
        made=48.0 * running * (0.85 + 0.15 * ripple),
        read=900 * running * ripple,
        hits=0.93 + 0.06 * ripple,
        preempted=1.0 if running > 6 and ripple > 0.97 else 0.0,
        finished=running // 2,
        first50=0.22 + 0.4 * wave * ripple,
        first95=0.7 + 1.6 * wave * ripple,
        next50=0.016 + 0.003 * wave,
        next95=0.028 + 0.01 * wave * ripple,
    )


def requests(now: float) -> LiveRequests:
    """Return open requests of three people."""
    rows = [
        ("claude-code", "main", "owner", "a1f3c9d0e1f2", QWEN_NAME, "decode", 41, 812, 61.0, 0.97),
        ("claude-code", "subagent", "owner", "a1f3c9d0e1f2", QWEN_NAME, "sent", 3, 0, None, None),
        ("codex", "", "lab-2", "77be01aa42cd", "bouchet-glm-4.7", "held", 16, 0, None, None),
        ("openai-python", "", "lab-1", "3c0d92e1f7aa", QWEN_NAME, "decode", 9, 240, 44.5, 0.12),
    ]
    found = [
        LiveRequest(
            id=number,
            agent=agent,
            kind=kind,
            key=key,
            conversation=conversation,
            model=model,
            phase=phase,
            began=now - age,
            prompt=96_000,
            tokens=tokens,
            rate=rate,
            cached=cached,
        )
        for number, (agent, kind, key, conversation, model, phase, age, tokens, rate, cached) in enumerate(rows)
    ]
    failed = SeenError(
        at=now - 400,
        key="lab-2",
        model=QWEN_NAME,
        status=429,
        kind="rate_limit_exceeded",
        message="the key lab-2 may use 200000 tokens per minute; retry in 12 s",
    )
    return LiveRequests(at=now, requests=tuple(found), errors=(failed,))


QWEN_NAME = "bouchet-qwen3-coder-next"
# GPU hours of the pictures' month: days, and hours of each kind in each of them
MONTH_DAYS = 30
DAY = ((SpanKind.QUEUED, 0.3), (SpanKind.STARTING, 0.1), (SpanKind.SERVING, 8.5), (SpanKind.IDLE, 1.1))


def month_of_jobs(now: datetime) -> list[JobEntry]:
    """Return a job of each day until now, as the worker appends them."""
    return [job_of_a_day(number, now - timedelta(days=number, hours=10)) for number in range(MONTH_DAYS)]


def job_of_a_day(number: int, began: datetime) -> JobEntry:
    """Return a job of one GPU that waited, started, served and was idle."""
    spans: list[JobSpan] = []
    for kind, hours in DAY:
        start = spans[-1].end if spans and spans[-1].end else began
        spans.append(JobSpan(kind=kind, start=start, end=start + timedelta(hours=hours)))
    return JobEntry(
        job=f"bouchet-aaaaaaaaaaaa-{number + 100}",
        version=1,
        deployment="aaaaaaaaaaaa",
        model=QWEN,
        alias=QWEN_NAME,
        gpus=1,
        gpu_type="h200",
        partition="gpu_h200",
        charge_per_gpu_hour=300.0,
        charge_unit="SU",
        submitted_at=began,
        ended_at=spans[-1].end,
        spans=tuple(spans),
    )


def set_scene(store: Store, *, with_proxy: bool = False) -> None:
    """Store all of it."""
    now = datetime.now(UTC)
    for made in (parked(now), queued(now), starting(now), serving(now)):
        store.create(made)
    spread: dict[int, list[FigurePoint]] = {}
    for one in points(now.timestamp()):
        spread.setdefault(one.at, []).append(one)
    for at, found in spread.items():
        add_points_at(store, found, at)
    keep_alive(store, with_proxy=with_proxy)


def add_points_at(store: Store, found: list[FigurePoint], at: float) -> None:
    """Store points as if they had been read at that time."""
    client = store.queue_connection()
    body = "[" + ",".join(one.model_dump_json(exclude_none=True) for one in found) + "]"
    client.xadd("bouchet:points", {"points": body}, id=f"{int(at * 1000)}-*")
    client.close()


def keep_alive(store: Store, *, with_proxy: bool = False) -> None:
    """Renew what worker and proxy renew while they live. with_proxy: there is a real one, which does its part."""
    store.beat(HEARTBEAT, 600)
    if with_proxy:
        return
    store.load.report(LoadReport(at=datetime.now(UTC), jobs={SERVING_JOB: JobLoad(open=3)}, held={"bbbbbbbbbbbb": 1}))
    store.live_view.report_requests(requests(time.time()))
