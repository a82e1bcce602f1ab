"""The nouns: what a deployment, its jobs and its phases are. All values are frozen.

A deployment is a promise ("this model answers under these names"); a Slurm job is one attempt to keep it.
Times are aware UTC datetimes; durations end in `_s` (seconds); memory is in GiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from .errors import IllegalTransitionError
from .provenance import LaunchPins, SmokeTest, Software, Weights
from .values import DeploymentName, FrozenModel, SlurmWord, Walltime


class Phase(StrEnum):
    """Where a deployment (or one of its jobs) is in its life."""

    REQUESTED = "requested"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


class Ending(StrEnum):
    """How an ended deployment ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    PREEMPTED = "preempted"
    IDLE = "idle"


# Every legal move is one row here. Slurm may requeue a running job (node failure, preemption), hence the ways back.
LEGAL_MOVES: Mapping[Phase, frozenset[Phase]] = {
    Phase.REQUESTED: frozenset({Phase.SUBMITTING, Phase.ENDED}),
    Phase.SUBMITTING: frozenset({Phase.QUEUED, Phase.ENDED}),
    Phase.QUEUED: frozenset({Phase.STARTING, Phase.ENDED}),
    Phase.STARTING: frozenset({Phase.READY, Phase.QUEUED, Phase.DRAINING, Phase.ENDED}),
    Phase.READY: frozenset({Phase.QUEUED, Phase.STARTING, Phase.DRAINING, Phase.ENDED}),
    Phase.DRAINING: frozenset({Phase.QUEUED, Phase.ENDED}),
    Phase.ENDED: frozenset(),
}

ClaudeTier = Literal["opus", "sonnet", "haiku"]


class LaunchRequest(FrozenModel):
    """What a person asked for. None means: the catalog's default, then the site's."""

    like: str | None = Field(
        default=None, min_length=1, max_length=100, description="id of an earlier deployment: run the very same again"
    )
    model: str = Field(
        default="",
        validate_default=True,
        max_length=200,
        examples=["Qwen/Qwen3-Coder-Next-FP8"],
        description="id or alias of the catalog; may be left out with `like` only",
    )
    name: DeploymentName | None = Field(
        default=None, description="alias to serve under; the catalog's alias by default"
    )
    gpus: int | None = Field(default=None, strict=True, ge=1, le=256)
    nodes: int | None = Field(default=None, strict=True, ge=1, le=32)
    time: Walltime | None = Field(default=None, description="walltime as Slurm writes it, e.g. 06:00:00 or 2-00:00:00")
    partition: SlurmWord | None = Field(default=None, description="a partition, or `auto` for the earliest start")
    quant: Literal["fp8", "none"] | None = None
    kv_cache_dtype: Literal["auto", "fp8"] | None = Field(
        default=None, description="type of the KV cache: fp8 halves it; auto is the model's own"
    )
    max_len: int | None = Field(
        default=None, strict=True, ge=256, le=10_485_760, description="context window in tokens"
    )
    account: SlurmWord | None = None
    qos: SlurmWord | None = None
    constraint: SlurmWord | None = None
    serve_as: tuple[ClaudeTier, ...] = Field(default=(), description="Claude tiers this deployment answers for")
    idle_timeout_min: int | None = Field(
        default=None, strict=True, ge=0, le=10_080, description="minutes without requests; 0 is never"
    )

    @field_validator("model")
    @classmethod
    def _names_a_model(cls, model: str, info: ValidationInfo) -> str:
        if not model and info.data.get("like") is None:
            raise PydanticCustomError("missing", "Field required")
        return model


class Traits(FrozenModel):
    """What clients may send to a model: the catalog's word, kept on the record for the proxy."""

    thinking: Literal["none", "off", "on", "always"] = "none"
    vision: bool = False
    max_output: int = 32_000
    tool_parser: str | None = None
    reasoning_parser: str | None = None


class Placement(FrozenModel):
    """Where and how large: the resources asked of Slurm, and why these."""

    partition: str
    gpus: int
    gpu_type: str
    nodes: int
    cpus: int
    memory_gib: int
    walltime_s: int
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    why: str = ""


class MemoryEstimate(FrozenModel):
    """The sum: gpu x share - weights - work = left for the cache. What is None is not known, and was not checked."""

    gpu_gib: float | None = Field(default=None, description="memory of one GPU, as CUDA reports it")
    share: float | None = Field(default=None, description="part of it that vLLM may use (--gpu-memory-utilization)")
    weights_gib: float | None = Field(default=None, description="weights on one GPU")
    work_gib: float | None = Field(
        default=None, description="what running takes besides: activations, graphs, NCCL; estimated"
    )
    cache_gib: float | None = Field(default=None, description="what is left for the KV cache of one GPU")
    token_bytes: int | None = Field(default=None, description="KV cache that one more token takes on one GPU")
    window_gib: float | None = Field(
        default=None, description="KV cache that one conversation of the full window takes there"
    )
    window: int = Field(description="context window in tokens")
    longest: int | None = Field(default=None, description="the longest window that the model's config.json allows")
    conversations: float | None = Field(
        default=None, description="conversations of the full window that fit at once, in all"
    )
    source: str = Field(default="", description="where the figures of the model are from")
    note: str = Field(default="", description="the outcome in a sentence")


class Job(FrozenModel):
    """One attempt to keep a deployment's promise. Unset fields are not known yet."""

    name: str = Field(description="Slurm's job name; unique, so that a job submitted before a crash is found again")
    slot: int = Field(description="gateway slot, 0-based")
    slurm_id: int | None = None
    phase: Phase = Phase.SUBMITTING
    slurm_state: str = ""
    reason: str = ""
    progress: str = Field(default="", description="what vLLM is doing while it starts, in words")
    placement: Placement | None = None
    start_estimate: datetime | None = None
    asked_at: datetime | None = Field(
        default=None,
        description="when sbatch was called last; without an answer, look for the job before calling it again",
    )
    node: str | None = None
    port: int | None = None
    socket: str | None = Field(
        default=None, description="UNIX socket on the node where it listens on no port (`via: node`)"
    )
    loopback: bool = Field(
        default=False, description="it listens for its own node alone, so the way leads over ssh to it"
    )
    window: int | None = Field(default=None, description="context window in tokens, as vLLM reports it")
    memory: MemoryEstimate | None = Field(
        default=None, description="what was reckoned of the GPUs' memory before it was submitted"
    )
    image: str | None = Field(default=None, description="file name of the SIF")
    image_sha256: str | None = None
    model_revision: str | None = None
    vllm_version: str | None = None
    torch_version: str | None = None
    gpus: tuple[str, ...] = Field(default=(), description="names of the GPUs of its first node")
    driver: str | None = Field(default=None, description="version of NVIDIA's driver there")
    nodes: tuple[str, ...] = Field(default=(), description="all nodes that it ran on")
    command: tuple[str, ...] = ()
    arguments: tuple[str, ...] = Field(default=(), description="what vLLM was to be given, as staged")
    submission: tuple[str, ...] = Field(default=(), description="sbatch's command line")
    software: Software | None = None
    weights: Weights | None = None
    smoke: SmokeTest | None = Field(default=None, description="the smoke test of its start, once it was made")
    log: str | None = Field(default=None, description="path of the job's log on the cluster, once it has a Slurm id")
    exit_code: str | None = Field(default=None, description="Slurm's `status:signal`")
    kept_until: datetime | None = Field(
        default=None, description="of an ended job: when its folder and log may be removed from the cluster"
    )
    note: str = Field(
        default="", description="what a person should know while it serves, such as weights that will be deleted"
    )
    sealed_key: str | None = Field(
        default=None,
        description="of a job taken over from another installation: its key, sealed with this one's secret",
    )
    proves: bool = Field(default=False, description="its server proves on /health that it holds the job's key")
    since: Mapping[Phase, datetime] = Field(default_factory=dict, description="when each phase was entered last")
    times: Mapping[str, float] = Field(
        default_factory=dict,
        description="seconds of its start: queue, image, boot, load, compile, smoke; and once it is ready, their sum",
    )

    @property
    def listens(self) -> bool:
        """Whether it has said where its vLLM listens."""
        return self.port is not None or self.socket is not None


class Deployment(FrozenModel):
    """The record of one promise. `version` counts its changes; a save must know the version it replaces."""

    id: str
    model: str = Field(description="Hugging Face id")
    names: tuple[str, ...] = Field(description="every name it answers to; the first is the alias")
    request: LaunchRequest
    traits: Traits = Traits()
    entry: Mapping[str, Any] = Field(default_factory=dict, description="the catalog's entry when it was asked for")
    pins: LaunchPins | None = Field(
        default=None, description="of a launch like an earlier one: what it must find again"
    )
    phase: Phase = Phase.REQUESTED
    ending: Ending | None = None
    reason: str = Field(default="", description="a sentence a person can act on")
    jobs: tuple[Job, ...] = ()
    stop_requested_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    version: int = 0

    @property
    def alias(self) -> str:
        """The short name, safe for every client."""
        return self.names[0]

    @property
    def job(self) -> Job | None:
        """The current attempt, None before the first."""
        return self.jobs[-1] if self.jobs else None

    @property
    def is_live(self) -> bool:
        """Whether anything may still run for it."""
        return self.phase is not Phase.ENDED

    def with_job(self, job: Job, now: datetime) -> Deployment:
        """The same deployment, its job of that name replaced (or added)."""
        others = tuple(j for j in self.jobs if j.name != job.name)
        return self._changed(now, jobs=(*others, job))

    def moved(self, phase: Phase, now: datetime, *, reason: str = "", ending: Ending | None = None) -> Deployment:
        """The same deployment in another phase, its current job with it.

        Raises IllegalTransitionError when the table has no such row. A move to the same phase only changes the reason.
        """
        if phase is not self.phase and phase not in LEGAL_MOVES[self.phase]:
            raise IllegalTransitionError(self.id, self.phase, phase)
        jobs = self.jobs
        if self.job is not None:
            since = self.job.since if phase is self.job.phase else {**self.job.since, phase: now}
            jobs = (*jobs[:-1], self.job.model_copy(update={"phase": phase, "since": since, "reason": reason}))
        return self._changed(now, phase=phase, reason=reason, ending=ending, jobs=jobs)

    def asked_to_stop(self, now: datetime) -> Deployment:
        """The same deployment, wanted no more."""
        return self._changed(now, stop_requested_at=self.stop_requested_at or now)

    def _changed(self, now: datetime, **fields: object) -> Deployment:
        return self.model_copy(update={**fields, "updated_at": now, "version": self.version + 1})


class Orphan(FrozenModel):
    """A job on the cluster that looks like ours and that no live record speaks of."""

    slurm_id: int
    name: str = Field(description="Slurm's job name")
    state: str = Field(description="Slurm's word")
    partition: str = ""
    node: str | None = None
    model: str | None = Field(default=None, description="Hugging Face id; null where the job's files do not say")
    names: tuple[str, ...] = ()
    owner: Literal["this", "another", "unknown"] = Field(description="which installation of bouchet-llm launched it")
    can_adopt: bool = True
    note: str = Field(default="", description="why it stands here, for people")


class ClusterOutage(FrozenModel):
    """What the worker could not learn of the cluster lately. Records then say what was true before."""

    since: datetime
    detail: str = Field(description="what was asked, and how that failed")


class DeploymentEvent(FrozenModel):
    """One change of one deployment, as the event stream keeps it. `id` is Redis' stream id."""

    id: str
    deployment: str
    phase: Phase
    ending: Ending | None = None
    reason: str = ""
    at: datetime
