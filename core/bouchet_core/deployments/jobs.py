"""What a launch asks for, and the Slurm jobs that come of it. All values are frozen.

Times are aware UTC datetimes; durations end in `_s` (seconds); memory is in GiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from bouchet_core.policy.request import PolicyRequest
from bouchet_core.provenance import SmokeTest, Software, Weights
from bouchet_core.values import WHOLE, DeploymentName, FrozenModel, GpuRequest, SlurmWord, Walltime


class Phase(StrEnum):
    """Phase of a deployment and of each of its jobs. Only a deployment is ever parked: it waits without a job."""

    REQUESTED = "requested"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    PARKED = "parked"
    ENDED = "ended"


class Ending(StrEnum):
    """How an ended deployment ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    PREEMPTED = "preempted"
    IDLE = "idle"
    # of an attached server, which goes on
    DETACHED = "detached"


# Of a job. Slurm may requeue a running one (node failure, preemption), so a phase may go back to QUEUED.
LEGAL_MOVES: Mapping[Phase, frozenset[Phase]] = {
    Phase.REQUESTED: frozenset({Phase.SUBMITTING, Phase.ENDED}),
    Phase.SUBMITTING: frozenset({Phase.QUEUED, Phase.ENDED}),
    Phase.QUEUED: frozenset({Phase.STARTING, Phase.ENDED}),
    Phase.STARTING: frozenset({Phase.READY, Phase.QUEUED, Phase.DRAINING, Phase.ENDED}),
    Phase.READY: frozenset({Phase.QUEUED, Phase.STARTING, Phase.DRAINING, Phase.ENDED}),
    Phase.DRAINING: frozenset({Phase.QUEUED, Phase.ENDED}),
    Phase.PARKED: frozenset({Phase.ENDED}),
    Phase.ENDED: frozenset(),
}

ClaudeTier = Literal["opus", "sonnet", "haiku"]


# what `_names_a_model` checks, in the words of JSON schema
NAMES_A_MODEL: dict[str, JsonValue] = {
    "anyOf": [
        {"required": ["model"], "properties": {"model": {"minLength": 1}}},
        {"required": ["like"], "properties": {"like": {"type": "string"}}},
    ]
}


class LaunchRequest(FrozenModel):
    """The body of a launch request. None: the catalog's default, then the site's."""

    model_config = ConfigDict(json_schema_extra=NAMES_A_MODEL)

    like: str | None = Field(
        default=None, min_length=1, max_length=100, description="id of an earlier deployment to reproduce"
    )
    model: str = Field(
        default="",
        validate_default=True,
        max_length=200,
        examples=["Qwen/Qwen3-Coder-Next-FP8"],
        description="id or alias in the catalog; only `like` makes it optional",
    )
    name: DeploymentName | None = Field(
        default=None, description="alias to serve under; the catalog's alias by default"
    )
    gpus: Annotated[int, Field(ge=1, le=256), WHOLE] | None = None
    nodes: Annotated[int, Field(ge=1, le=32), WHOLE] | None = None
    time: Walltime | None = Field(default=None, description="walltime as Slurm writes it, e.g. 06:00:00 or 2-00:00:00")
    partition: SlurmWord | None = Field(default=None, description="a partition, or `auto` for the earliest start")
    quant: Literal["fp8", "none"] | None = None
    kv_cache_dtype: Literal["auto", "fp8"] | None = Field(
        default=None, description="type of the KV cache: fp8 halves it; auto is the model's own"
    )
    max_len: Annotated[int, Field(ge=256, le=10_485_760), WHOLE] | None = Field(
        default=None, description="context window in tokens"
    )
    account: SlurmWord | None = None
    qos: SlurmWord | None = None
    constraint: SlurmWord | None = None
    serve_as: tuple[ClaudeTier, ...] = Field(default=(), description="Claude tiers this deployment answers for")
    idle_timeout_min: Annotated[int, Field(ge=0, le=10_080), WHOLE] | None = Field(
        default=None, description="minutes without requests; 0 is never"
    )
    policy: PolicyRequest | None = Field(default=None, description="how long, when and for how much to keep it")
    notify: bool = Field(
        default=False, strict=True, description="send messages about this deployment, whatever NOTIFY_EVENTS says"
    )

    @field_validator("model")
    @classmethod
    def _names_a_model(cls, model: str, info: ValidationInfo) -> str:
        if not model and info.data.get("like") is None:
            raise PydanticCustomError("missing", "Field required")
        return model


class Traits(FrozenModel):
    """What the proxy must know of a model; copied from the catalog into the record."""

    thinking: Literal["none", "off", "on", "always"] = "none"
    vision: bool = False
    max_output: int = 32_000
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    tool_search: bool = True


class Placement(FrozenModel):
    """The resources requested from Slurm. why: how they were chosen."""

    partition: str
    gpus: int
    gpu_type: str = ""
    nodes: int = 1
    cpus: int
    memory_gib: int
    walltime_s: int
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu_request: GpuRequest = "gpus"
    gpu_type_requested: bool = True
    whole_node: bool = False
    whole_node_gpus: int = Field(default=0, description="GPUs of its nodes, where it gets whole ones; else 0")
    why: str = ""

    @property
    def held_gpus(self) -> int:
        """The GPUs that it keeps from other jobs, which is what a site counts and charges."""
        return self.whole_node_gpus or self.gpus


class MemoryEstimate(FrozenModel):
    """The estimate of GPU memory: gpu x share - weights - work = cache. None: not known and not checked."""

    gpu_gib: float | None = Field(default=None, description="memory of one GPU, as CUDA reports it")
    share: float | None = Field(default=None, description="fraction of it that vLLM may use (--gpu-memory-utilization)")
    weights_gib: float | None = Field(default=None, description="weights on one GPU")
    work_gib: float | None = Field(default=None, description="estimate for activations, CUDA graphs and NCCL")
    cache_gib: float | None = Field(default=None, description="what remains for the KV cache of one GPU")
    token_bytes: int | None = Field(default=None, description="KV cache of one token on one GPU")
    window_gib: float | None = Field(
        default=None, description="KV cache of one conversation of the full window on one GPU"
    )
    window: int = Field(description="context window in tokens")
    longest: int | None = Field(default=None, description="the longest window that the model's config.json allows")
    conversations: float | None = Field(
        default=None, description="conversations of the full window that fit at the same time"
    )
    source: str = Field(default="", description="where the model's dimensions come from")
    note: str = Field(default="", description="the result as a sentence")


class Job(FrozenModel):
    """One Slurm job of a deployment. Unset fields are not known yet."""

    name: str = Field(description="Slurm's job name; unique, so that a job submitted before a crash is found again")
    slot: int = Field(description="gateway slot, 0-based")
    slurm_id: int | None = None
    phase: Phase = Phase.SUBMITTING
    ending: Ending | None = None
    stop_requested_at: datetime | None = Field(default=None, description="when this job alone was asked to end")
    leaving_since: datetime | None = Field(default=None, description="since when it takes no new requests")
    retired_because: str = Field(default="", description="why its deployment no longer needs it")
    replaces: str | None = Field(default=None, description="name of the job whose place it takes")
    begin_at: datetime | None = Field(default=None, description="Slurm does not start it before this time")
    asked_walltime_s: int | None = Field(
        default=None, description="walltime that its deployment's policy asked for; null: the request's"
    )
    slurm_state: str = ""
    run_s: float | None = Field(
        default=None, description="seconds of a run that has ended, by Slurm's count, while Slurm still cleans up"
    )
    reason: str = ""
    progress: str = Field(default="", description="what vLLM is doing while it starts, as text")
    steps: tuple[str, ...] = Field(default=(), description="all steps of the start so far, also short ones, in order")
    placement: Placement | None = None
    start_estimate: datetime | None = None
    asked_at: datetime | None = Field(
        default=None,
        description="when sbatch was last called; if its result is unknown, find the job before calling it again",
    )
    node: str | None = None
    port: int | None = None
    socket: str | None = Field(
        default=None, description="UNIX socket on the node, if it listens on no port (`via: node`)"
    )
    loopback: bool = Field(
        default=False, description="it listens on the node's 127.0.0.1 only, so it is reached over ssh to the node"
    )
    window: int | None = Field(default=None, description="context window in tokens, as vLLM reports it")
    memory: MemoryEstimate | None = Field(
        default=None, description="the GPU memory estimate from before the submission"
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
    arguments: tuple[str, ...] = Field(default=(), description="vLLM's arguments, as staged")
    submission: tuple[str, ...] = Field(default=(), description="sbatch's command line")
    site_message: str = Field(
        default="", description="what sbatch printed beside the id: messages of the site's own rules for jobs"
    )
    software: Software | None = None
    weights: Weights | None = None
    smoke: SmokeTest | None = Field(default=None, description="the result of the smoke test after its start")
    log: str | None = Field(default=None, description="path of the job's log on the cluster, once it has a Slurm id")
    exit_code: str | None = Field(default=None, description="Slurm's `status:signal`")
    kept_until: datetime | None = Field(
        default=None, description="of an ended job: when its folder and log may be removed from the cluster"
    )
    note: str = Field(default="", description="a warning to show while it serves, such as weights that will be deleted")
    sealed_key: str | None = Field(
        default=None,
        description="key of a job adopted from another installation, or of an attached server, sealed with this "
        "installation's secret",
    )
    proves: bool = Field(default=False, description="its server proves on /health that it holds the job's key")
    resumes: int = Field(default=0, description="version of its server's protocol for lost connections; 0: it has none")
    since: Mapping[Phase, datetime] = Field(default_factory=dict, description="when each phase was last entered")
    times: Mapping[str, float] = Field(
        default_factory=dict,
        description="seconds of each startup step: queue, image, boot, load, compile, smoke; once ready also their sum",
    )

    @property
    def listens(self) -> bool:
        """Whether it is known where its vLLM listens."""
        return self.port is not None or self.socket is not None

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""
        return self.phase is not Phase.ENDED

    @property
    def deadline(self) -> datetime | None:
        """When Slurm ends it at the latest, None before it has started."""
        started = self.since.get(Phase.STARTING)
        if started is None or self.placement is None or self.phase in (Phase.QUEUED, Phase.SUBMITTING):
            return None
        return started + timedelta(seconds=self.placement.walltime_s)
