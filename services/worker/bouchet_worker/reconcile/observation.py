"""What one check of a deployment's job found. Slurm's three kinds of answers are kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Literal

from bouchet_core.provenance import SmokeTest, Software, Weights
from bouchet_core.values import FrozenModel
from pydantic import ConfigDict, Field

from bouchet_worker.slurm.states import State


@dataclass(frozen=True)
class JobStatus:
    """Slurm knows the job."""

    state: State
    # as Slurm prints it, e.g. `CANCELLED by 2001`
    state_text: str
    reason: str = ""
    # the first of its nodes
    node: str | None = None
    # of a pending job the estimated start, of a running one the actual start
    start: datetime | None = None
    exit_code: str | None = None
    # seconds in the queue
    waited_s: float | None = None
    # seconds of the present or last run, by Slurm's own count
    run_s: float | None = None
    # who cancelled it, e.g. `user colleague (id 2003)`
    cancelled_by: str = ""
    # where it waits or runs; several, separated by commas, while Slurm may still choose
    partition: str = ""


@dataclass(frozen=True)
class JobNotFound:
    """Slurm was asked (squeue, scontrol and accounting) and knows no such job."""


@dataclass(frozen=True)
class QueryFailed:
    """Nothing is known about the job. Never a reason to end a deployment."""

    detail: str = ""
    # False when there was no job to ask about yet
    attempted: bool = True


@dataclass(frozen=True)
class AccountingBehind:
    """squeue and slurmctld answered and know no such job; accounting still reports it as not ended.

    Usually for seconds. For good where accounting lost the job's end: such a job stays until an administrator
    corrects it (`sacctmgr show runawayjobs`).
    """

    # as accounting prints it
    state_text: str


QueryResult = JobStatus | JobNotFound | AccountingBehind | QueryFailed


class _JobFile(FrozenModel):
    """A file that a job wrote. Fields of newer scripts are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ConnectionFile(_JobFile):
    """connection-<job id>.json: where vLLM listens and what it runs."""

    job_name: str
    node: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")
    port: int | None = Field(default=None, ge=1, le=65535)
    socket: str | None = Field(default=None, pattern=r"^/[A-Za-z0-9_./@+=-]{1,106}$")
    loopback: bool = False
    image: str
    image_sha256: str
    model_revision: str | None = None
    vllm: str | None = None
    torch: str | None = None
    gpus: tuple[str, ...] = ()
    driver: str | None = None
    command: tuple[str, ...] = ()
    nodelist: str | None = Field(default=None, description="as Slurm prints it, e.g. node[1-2]")
    software: Software | None = None
    weights: Weights | None = None
    note: str = ""
    proves: bool = Field(default=False, description="/health proves that it holds the job's key; older scripts cannot")
    resumes: int = Field(default=0, ge=0, description="version of the guard's protocol for lost connections; 0: none")
    started_at: int | None = Field(default=None, description="when the container was started, seconds since 1970")


EndKind = Literal["vllm_exited", "idle", "walltime", "stopped", "refused"]


class EndFile(_JobFile):
    """end-<job id>.json: why the batch script ended."""

    job_name: str
    kind: EndKind
    sentence: str
    exit_status: int = 0
    tail: tuple[str, ...] = Field(default=(), description="the last error lines of vLLM's log")


class HealthStatus(Enum):
    """The result of GET /health through the slot."""

    HEALTHY = "healthy"
    FAILING = "failing"
    DRAINING = "draining"


@dataclass(frozen=True)
class HealthReport:
    """The health of the vLLM behind a slot, and while it is healthy what vLLM reports about itself."""

    status: HealthStatus
    # seconds since the first failure in a row
    failing_s: float = 0.0
    # the server does not hold the job's key; the status is FAILING
    wrong_server: bool = False
    # why the node cannot be reached over SSH; the status is FAILING
    unreachable_reason: str = ""
    # of the job's idle and walltime watch
    warning: str = ""
    window: int | None = None
    vllm_version: str | None = None


@dataclass(frozen=True)
class Observed:
    """The result of one check. None: not checked, or not there yet."""

    slurm: QueryResult
    connection: ConnectionFile | None = None
    health: HealthReport | None = None
    progress: str = ""
    end_file: EndFile | None = None
    # seconds of the steps of the start, from vLLM's log
    engine_times: Mapping[str, float] = field(default_factory=dict)
    smoke: SmokeTest | None = None
    # the smoke test runs, and the deployment waits for its result
    smoke_pending: bool = False
    # of the start, from the end of the job's log
    steps: tuple[str, ...] = ()
