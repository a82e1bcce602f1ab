"""Downloads, image jobs, the tunnel and the status page as the API returns them.

Fields that an older or newer API leaves out are None or empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from .deployments import DeploymentInfo
from .http import Json

FINISHED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class StepInfo:
    """A step of a download or an image job, and when it began."""

    name: str
    at: datetime

    @classmethod
    def all_from_json(cls, raw: Json) -> tuple[StepInfo, ...]:
        """Parse the steps of a job of the API."""
        return tuple(cls(one["name"], datetime.fromisoformat(one["at"])) for one in raw.get("steps") or ())


@dataclass(frozen=True)
class DownloadInfo:
    """The body of GET /v1/downloads/ID."""

    id: str
    model: str
    state: str
    reason: str
    bytes: int
    # None until the hub has returned the size
    total_bytes: int | None
    # bytes a second
    rate: int
    eta_s: int | None
    updated_at: datetime
    steps: tuple[StepInfo, ...] = ()
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def subject(self) -> str:
        """The model."""
        return self.model

    @property
    def finished(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINISHED

    @property
    def percent(self) -> int | None:
        """Percent of the bytes, rounded down; None while the size is unknown."""
        return self.bytes * 100 // self.total_bytes if self.total_bytes else None

    @classmethod
    def from_json(cls, raw: Json) -> DownloadInfo:
        """Parse a download of the API."""
        return cls(
            *(raw["id"], raw["model"], raw["state"], raw.get("reason") or "", raw.get("bytes") or 0),
            total_bytes=raw.get("total_bytes"),
            rate=raw.get("rate") or 0,
            eta_s=raw.get("eta_s"),
            updated_at=datetime.fromisoformat(raw["updated_at"]),
            steps=StepInfo.all_from_json(raw),
            raw=raw,
        )


@dataclass(frozen=True)
class ImageJobInfo:
    """The body of GET /v1/images/jobs/ID: a build or a verification."""

    id: str
    pin: str
    action: str
    state: str
    reason: str
    stage: str = ""
    # steps of the stage
    done: int = 0
    of: int = 0
    bytes: int | None = None
    log: str | None = None
    steps: tuple[StepInfo, ...] = ()
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def subject(self) -> str:
        """The pin."""
        return self.pin

    @property
    def finished(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINISHED

    @classmethod
    def from_json(cls, raw: Json) -> ImageJobInfo:
        """Parse an image job of the API."""
        return cls(
            *(raw["id"], raw["pin"], raw["action"], raw["state"], raw.get("reason") or "", raw.get("stage") or ""),
            done=raw.get("done") or 0,
            of=raw.get("of") or 0,
            bytes=raw.get("bytes"),
            log=raw.get("log"),
            steps=StepInfo.all_from_json(raw),
            raw=raw,
        )


@dataclass(frozen=True)
class PromptInfo:
    """A prompt of the SSH login: its questions, each with whether the typed answer may be shown."""

    id: str
    title: str
    questions: tuple[tuple[str, bool], ...]
    host: str = ""


@dataclass(frozen=True)
class HostKeyInfo:
    """A host key that has not been accepted; a changed one cannot be accepted here."""

    host: str
    algorithm: str
    fingerprint: str
    changed: bool


@dataclass(frozen=True)
class TunnelInfo:
    """The SSH connection to the cluster."""

    state: str
    host: str
    since: datetime
    detail: str = ""
    prompt: PromptInfo | None = None
    host_key: HostKeyInfo | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Json) -> TunnelInfo:
        """Parse the body of GET /v1/tunnel."""
        open_prompt: Json | None = raw.get("prompt")
        prompt = None
        if open_prompt:
            questions = tuple(zip(open_prompt["questions"], open_prompt["echo"], strict=True))
            title, host = open_prompt.get("title") or "", open_prompt.get("host") or ""
            prompt = PromptInfo(open_prompt["id"], title, questions, host)
        since = datetime.fromisoformat(raw["since"])
        key: Json | None = raw.get("host_key")
        host_key = HostKeyInfo(key["place"], key["algorithm"], key["fingerprint"], key["changed"]) if key else None
        return cls(raw["state"], raw["host"], since, raw.get("detail") or "", prompt, host_key, raw)


@dataclass(frozen=True)
class StatusInfo:
    """The body of GET /v1/status. tunnel_error: why tunnel is None."""

    deployments: tuple[DeploymentInfo, ...]
    ended: tuple[DeploymentInfo, ...]
    tunnel: TunnelInfo | None
    tunnel_error: str
    cluster_outage: Json | None
    orphans: tuple[Json, ...] = ()
    # how many more have ended than `ended` lists
    ended_more: int = 0
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Json) -> StatusInfo:
        """Parse the status page."""
        return cls(
            deployments=tuple(DeploymentInfo.from_json(one) for one in raw["deployments"]),
            ended=tuple(DeploymentInfo.from_json(one) for one in raw.get("ended") or ()),
            tunnel=TunnelInfo.from_json(raw["tunnel"]) if raw.get("tunnel") else None,
            tunnel_error=raw.get("tunnel_error") or "",
            cluster_outage=raw.get("cluster_outage"),
            orphans=tuple(raw.get("orphans") or ()),
            ended_more=raw.get("ended_more") or 0,
            raw=raw,
        )
