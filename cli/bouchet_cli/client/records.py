"""What the API answers, as values. Fields that an older or newer API leaves out are None or empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """The Slurm job of a deployment."""

    slurm_id: int | None = None
    node: str | None = None
    window: int | None = None
    progress: str = ""
    start_estimate: datetime | None = None
    where: str = ""

    @classmethod
    def from_json(cls, raw: Json) -> Job:
        """One element of a deployment's jobs."""
        placed: Json = raw.get("placement") or {}
        nodes = f"{placed['nodes']} nodes with " if placed.get("nodes", 1) > 1 else ""
        return cls(
            slurm_id=raw.get("slurm_id"),
            node=raw.get("node"),
            window=raw.get("window"),
            progress=raw.get("progress") or "",
            start_estimate=_time(raw.get("start_estimate")),
            where=f"{placed['partition']}, {nodes}{placed['gpus']} x {placed['gpu_type']}" if placed else "",
        )


@dataclass(frozen=True)
class Deployment:
    """A deployment. `raw` is the API's own answer."""

    id: str
    model: str
    names: tuple[str, ...]
    phase: str
    created_at: datetime
    updated_at: datetime
    ending: str | None = None
    reason: str = ""
    stopping: bool = False
    max_output: int = 32_000
    serve_as: tuple[str, ...] = ()
    job: Job = Job()
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def alias(self) -> str:
        """The name that clients use."""
        return self.names[0]

    @property
    def standing(self) -> str:
        """Its phase; of what has ended, how. `idle` alone would read as if it still ran."""
        if self.phase != "ended":
            return self.phase
        return "ended" if self.ending in (None, "idle") else str(self.ending)

    @property
    def words(self) -> str:
        """Why it is where it is."""
        return self.job.progress if self.phase == "starting" and self.job.progress else self.reason

    @property
    def without_tools(self) -> str:
        """Why requests with tools are refused, as its smoke test found; empty where they are not."""
        jobs: Sequence[Json] = self.raw.get("jobs") or ({},)
        tools: Json = (jobs[-1].get("smoke") or {}).get("tools") or {}
        return str(tools.get("message") or "") if tools.get("result") == "failed" else ""

    def answers_to(self, name: str) -> bool:
        """Whether a person who types this name means this deployment."""
        return name.lower() in (self.id, *(own.lower() for own in self.names), self.model.lower())

    @classmethod
    def from_json(cls, raw: Json) -> Deployment:
        """The body of GET /v1/deployments/ID."""
        jobs: Sequence[Json] = raw.get("jobs") or ()
        return cls(
            id=raw["id"],
            model=raw["model"],
            names=tuple(raw["names"]),
            phase=raw["phase"],
            created_at=datetime.fromisoformat(raw["created_at"]),
            updated_at=datetime.fromisoformat(raw["updated_at"]),
            ending=raw.get("ending"),
            reason=raw.get("reason") or "",
            stopping=raw.get("stop_requested_at") is not None,
            max_output=(raw.get("traits") or {}).get("max_output", 32_000),
            serve_as=tuple((raw.get("request") or {}).get("serve_as") or ()),
            job=Job.from_json(jobs[-1]) if jobs else Job(),
            raw=raw,
        )


@dataclass(frozen=True)
class Download:
    """The body of GET /v1/downloads/ID."""

    id: str
    model: str
    state: str
    reason: str
    bytes: int
    total_bytes: int | None
    rate: int
    eta_s: int | None
    updated_at: datetime
    stopping: bool = False
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in ("done", "failed", "cancelled")

    @property
    def percent(self) -> int | None:
        """Rounded down; None before the hub has told the size."""
        return self.bytes * 100 // self.total_bytes if self.total_bytes else None

    @classmethod
    def from_json(cls, raw: Json) -> Download:
        """As the API says it."""
        return cls(
            *(raw["id"], raw["model"], raw["state"], raw.get("reason") or "", raw.get("bytes") or 0),
            total_bytes=raw.get("total_bytes"),
            rate=raw.get("rate") or 0,
            eta_s=raw.get("eta_s"),
            updated_at=datetime.fromisoformat(raw["updated_at"]),
            stopping=raw.get("stop_requested_at") is not None,
            raw=raw,
        )


@dataclass(frozen=True)
class ImageJob:
    """The body of GET /v1/images/jobs/ID."""

    id: str
    pin: str
    action: str
    state: str
    reason: str
    stage: str = ""
    done: int = 0
    of: int = 0
    bytes: int | None = None
    log: str | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in ("done", "failed", "cancelled")

    @classmethod
    def from_json(cls, raw: Json) -> ImageJob:
        """As the API says it."""
        return cls(
            *(raw["id"], raw["pin"], raw["action"], raw["state"], raw.get("reason") or "", raw.get("stage") or ""),
            done=raw.get("done") or 0,
            of=raw.get("of") or 0,
            bytes=raw.get("bytes"),
            log=raw.get("log"),
            raw=raw,
        )


@dataclass(frozen=True)
class Prompt:
    """Questions that the SSH login asks, with whether to show what is typed."""

    id: str
    title: str
    questions: tuple[tuple[str, bool], ...]
    host: str = ""


@dataclass(frozen=True)
class HostKey:
    """A host key that nobody has accepted yet; `changed` ones cannot be."""

    place: str
    algorithm: str
    fingerprint: str
    changed: bool


@dataclass(frozen=True)
class Tunnel:
    """The SSH connection."""

    state: str
    host: str
    since: datetime
    detail: str = ""
    prompt: Prompt | None = None
    host_key: HostKey | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Json) -> Tunnel:
        """The body of GET /v1/tunnel."""
        asked: Json | None = raw.get("prompt")
        prompt = None
        if asked:
            questions = tuple(zip(asked["questions"], asked["echo"], strict=True))
            prompt = Prompt(asked["id"], asked.get("title") or "", questions, asked.get("host") or "")
        since = datetime.fromisoformat(raw["since"])
        key: Json | None = raw.get("host_key")
        host_key = HostKey(key["place"], key["algorithm"], key["fingerprint"], key["changed"]) if key else None
        return cls(raw["state"], raw["host"], since, raw.get("detail") or "", prompt, host_key, raw)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
