"""What was seen of one deployment's job in one look. Three answers of Slurm are kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Literal

from bouchet_core.base import FrozenModel
from bouchet_core.provenance import SmokeTest, Software, Weights
from pydantic import ConfigDict, Field

from bouchet_worker.slurm.states import State


@dataclass(frozen=True)
class SlurmSays:
    """Slurm knows the job. word: its state as printed; node: the first of its nodes.

    start: of a waiting job the estimate, of a running one the moment; waited_s: in the queue; ended_by: who cancelled
    it, as a word or two.
    """

    state: State
    word: str
    reason: str = ""
    node: str | None = None
    start: datetime | None = None
    exit_code: str | None = None
    waited_s: float | None = None
    ended_by: str = ""


@dataclass(frozen=True)
class SlurmKnowsNot:
    """Slurm was asked (squeue, scontrol and accounting) and knows no such job."""


@dataclass(frozen=True)
class CouldNotLook:
    """Nothing was learnt. Never a reason to end anything. asked: False where there was nothing to ask yet."""

    detail: str = ""
    asked: bool = True


SlurmAnswer = SlurmSays | SlurmKnowsNot | CouldNotLook


class _FromJob(FrozenModel):
    """A file that a job wrote. Newer scripts may say more than this version reads."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Connection(_FromJob):
    """connection-<job id>.json."""

    job_name: str
    node: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")
    port: int | None = Field(None, ge=1, le=65535)
    socket: str | None = Field(None, pattern=r"^/[A-Za-z0-9_./@+=-]{1,106}$")
    loopback: bool = False
    image: str
    image_sha256: str
    model_revision: str | None = None
    vllm: str | None = None
    torch: str | None = None
    gpus: tuple[str, ...] = ()
    driver: str | None = None
    command: tuple[str, ...] = ()
    nodelist: str | None = Field(None, description="as Slurm writes it, e.g. node[1-2]")
    software: Software | None = None
    weights: Weights | None = None
    note: str = ""
    proves: bool = Field(False, description="its /health can be asked for a proof; jobs of older scripts give none")
    started_at: int | None = Field(None, description="when the container was started, seconds since 1970")


EndKind = Literal["vllm_exited", "idle", "walltime", "stopped", "refused"]


class EndNote(_FromJob):
    """end-<job id>.json: why the job's own script ended. tail: the last error lines of vLLM's log."""

    job_name: str
    kind: EndKind
    sentence: str
    exit_status: int = 0
    tail: tuple[str, ...] = ()


class Answering(Enum):
    """What /health said through the slot."""

    YES = "yes"
    NO = "no"
    DRAINING = "draining"


@dataclass(frozen=True)
class Health:
    """The answer, and once it is yes what vLLM says of itself. failing_s: since when it is no, 0 when it is not.

    stranger: something answers there, but it does not hold the job's key; a kind of no. no_way: why the node could not
    be reached over ssh, another kind. warning: of the job's own watch, about its end.
    """

    answering: Answering
    failing_s: float = 0.0
    stranger: bool = False
    warning: str = ""
    no_way: str = ""
    window: int | None = None
    vllm_version: str | None = None


@dataclass(frozen=True)
class Observed:
    """One look. None: not asked, or not there yet. took: seconds of steps of the start, as vLLM's log has them.

    smoke_waits: its smoke test is under way, and worth waiting for.
    """

    slurm: SlurmAnswer
    connection: Connection | None = None
    health: Health | None = None
    progress: str = ""
    end: EndNote | None = None
    took: Mapping[str, float] = field(default_factory=dict)
    smoke: SmokeTest | None = None
    smoke_waits: bool = False
