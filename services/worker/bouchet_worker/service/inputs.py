"""What `plan` reads and what it returns. Frozen, independent of the store; times are aware, durations seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from bouchet_core.deployments import Phase
from bouchet_core.policy import OFF, Policy
from bouchet_core.policy.budget import BudgetUse as BudgetUse
from bouchet_core.policy.weekly import Span

# phases of a job that has not served yet
COMING = frozenset({Phase.REQUESTED, Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING})


@dataclass(frozen=True)
class JobView:
    """One live job of a deployment."""

    name: str
    phase: Phase
    # GPUs of all its nodes
    gpus: int
    # when it entered the queue
    submitted_at: datetime
    # when Slurm started it, and when it must end; None while it waits
    started_at: datetime | None = None
    ends_at: datetime | None = None
    ready_at: datetime | None = None
    # the time of the SUBMIT's `begin`, which marks a job for coming hours; Slurm does not start it before
    begin_at: datetime | None = None
    # Slurm's own estimate of its start, while it waits
    start_estimate: datetime | None = None
    # answers that are still on their way to clients, and when the last one ended
    open_streams: int = 0
    last_request_end: datetime | None = None
    # since when it takes no new conversations (HAND_OVER was carried out); None: it takes them
    leaving_since: datetime | None = None
    # name of the job whose place it takes; None: it has a place of its own
    replaces: str | None = None
    preemptible: bool = False

    @property
    def is_coming(self) -> bool:
        """Whether it is queued or loading."""
        return self.phase in COMING

    @property
    def is_leaving(self) -> bool:
        """Whether new conversations go elsewhere."""
        return self.leaving_since is not None or self.phase is Phase.DRAINING

    @property
    def is_serving(self) -> bool:
        """Whether it is ready and takes new conversations."""
        return self.phase is Phase.READY and not self.is_leaving


@dataclass(frozen=True)
class JobEnd:
    """How the last job ended, where plan did not ask for it. reason: a sentence."""

    at: datetime
    reason: str
    # whether it gave its GPUs back because no request came
    was_idle: bool = False


@dataclass(frozen=True)
class RecordView:
    """What the record of a deployment says. jobs: the live ones; an ended job is not among them."""

    id: str
    alias: str
    policy: Policy = OFF
    jobs: tuple[JobView, ...] = ()
    # what the next job is submitted with
    gpus: int = 1
    walltime_s: float = 21_600.0
    # seconds without a request after which it is parked; 0: never
    idle_s: float = 2700.0
    # jobs in a row that ended before they were ready, since the last ready one or change of the policy
    failed_starts: int = 0
    last_end: JobEnd | None = None
    # a sentence if plan has paused it; a person resumes it
    paused: str = ""
    is_stopping: bool = False
    # since when it is parked; None: it is not, or has never run
    parked_at: datetime | None = None
    # the period of the last budget warning began then
    warned_for: datetime | None = None


@dataclass(frozen=True)
class ServiceLoad:
    """What clients ask of the deployment at the moment."""

    # requests that wait within vLLM, and the fraction of the KV cache in use, of the busiest job
    waiting: int = 0
    kv_use: float = 0.0
    # since when waiting > 5 or kv_use > 0.8 without a break
    high_since: datetime | None = None
    # seconds until the waiting requests are done at the present rate; None: they only get more
    backlog_s: float | None = 0.0
    # requests that the proxy holds until a job is ready
    held: int = 0
    # when a request last named it while no job was ready
    demand_at: datetime | None = None
    last_request_end: datetime | None = None


@dataclass(frozen=True)
class Rival:
    """Another deployment that holds GPUs which this one could use."""

    id: str
    alias: str
    gpus: int
    # when its last job became ready; None: one is loading or queued
    ready_at: datetime | None
    last_request_end: datetime | None
    startup_s: float
    # answers that are open or held
    open_streams: int = 0
    # whether its policy lets it be parked now: on demand, and neither `keep` nor hours hold it
    may_park: bool = False
    exclusive_group: str | None = None


@dataclass(frozen=True)
class ServiceLimits:
    """What the cluster allows and expects. None: no known limit."""

    # when Slurm was last queried with success
    observed_at: datetime
    # limits of the user in the partition, and what all of the user's jobs there use, this deployment's included
    max_gpus: int | None = None
    gpus_in_use: int = 0
    max_running: int | None = None
    running: int = 0
    max_submitted: int | None = None
    submitted: int = 0
    max_walltime_s: float | None = None
    slots_free: int = 8
    # seconds that a new job of this size would wait, a model takes from start to ready, an answer may take
    queue_s: float = 900.0
    startup_s: float = 300.0
    # whether a start of the deployment was measured: else startup_s is a guess
    is_start_measured: bool = True
    longest_answer_s: float = 300.0
    # maintenance reservations that touch the partition
    maintenance: Sequence[Span] = ()
    budgets: Sequence[BudgetUse] = ()
    rivals: Sequence[Rival] = ()


class ActionKind(StrEnum):
    """What the worker carries out. Each is safe to repeat: the next plan sees what became of it."""

    # submit a job for a deployment that has some, or whose hours come
    SUBMIT = "submit"
    # submit the first job of a parked deployment, because a request names it
    WAKE = "wake"
    # take no new conversations to the job; old ones move at their next turn
    HAND_OVER = "hand_over"
    # the opposite: the job takes conversations again
    TAKE_BACK = "take_back"
    # cancel the job: nothing is open on it any more
    RETIRE = "retire"
    # cancel all jobs; the deployment's phase becomes `parked`
    PARK = "park"
    # cancel all jobs and end the deployment: its policy is over
    END = "end"
    # park another deployment, whose GPUs this one needs
    PARK_RIVAL = "park_rival"
    # submit nothing more until a person resumes it
    PAUSE = "pause"
    # tell people (budget at 80 %)
    WARN = "warn"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Action:
    """One step, with its reason as a sentence."""

    kind: ActionKind
    reason: str
    # HAND_OVER, TAKE_BACK, RETIRE: the job's name
    job: str | None = None
    # PARK_RIVAL: the other deployment's id
    deployment: str | None = None
    # SUBMIT, WAKE: the walltime, not before when, and whose place it takes
    walltime_s: float | None = None
    begin: datetime | None = None
    replaces: str | None = None
