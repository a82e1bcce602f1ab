"""What is shown while it is looked at: figures of each job over the last hour, and the requests that are open now.

Field names of points and requests are short: hundreds of them are sent to each page.
"""

from __future__ import annotations

from pydantic import ConfigDict, Field

from bouchet_core.figures import JobFigures, LatencyHistogram
from bouchet_core.values import FrozenModel

# a rate needs two readings that are not further apart than this
LONGEST_GAP_S = 120.0
MOST_REQUESTS, MOST_ERRORS = 200, 50
LONGEST_TEXT = 300


class _Shown(FrozenModel):
    """A part of what is shown; what a newer version adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class FigurePoint(_Shown):
    """What one job did between two readings of its /metrics. None: nothing to measure in that time."""

    job: str = Field(description="name of the job")
    deployment: str = Field(description="id of the deployment")
    at: int = Field(description="Unix time of the later reading")
    running: float = Field(default=0.0, description="requests being computed")
    waiting: float = Field(default=0.0, description="requests in the server's queue")
    kv: float | None = Field(default=None, description="used fraction of the KV cache")
    made: float | None = Field(default=None, description="generated tokens a second")
    read: float | None = Field(default=None, description="prompt tokens a second, those of the prefix cache too")
    hits: float | None = Field(default=None, description="fraction of prompt tokens found in the prefix cache")
    preempted: float | None = Field(default=None, description="requests whose cache was taken away meanwhile")
    finished: float | None = Field(default=None, description="requests that have ended meanwhile")
    first50: float | None = Field(default=None, description="seconds to the first token, median")
    first95: float | None = Field(default=None, description="... 95th percentile")
    next50: float | None = Field(default=None, description="seconds between two tokens, median")
    next95: float | None = Field(default=None, description="... 95th percentile")


class LiveRequest(_Shown):
    """A request that has not ended. Never a prompt or an answer; conversation: a hash."""

    id: int = Field(description="counts up since the proxy's start")
    conversation: str = ""
    key: str = Field(default="", description="name of the client's key")
    agent: str = Field(default="", description="the client program")
    kind: str = Field(default="", description="what the client calls the request: main, subagent, compaction ...")
    model: str = Field(default="", description="the name that it asked for")
    deployment: str = ""
    phase: str = Field(default="", description="held, sent (queued or reading its prompt) or decode")
    began: float = Field(default=0.0, description="Unix time")
    prompt: int = Field(default=0, description="bytes of the request")
    tokens: int = Field(default=0, description="of the answer so far")
    rate: float | None = Field(default=None, description="tokens a second, since the first")
    cached: float | None = Field(default=None, description="fraction of the prompt found in the prefix cache")


class SeenError(_Shown):
    """A request that failed, with the message that its client was sent."""

    at: float = Field(description="Unix time")
    key: str = ""
    model: str = ""
    status: int = 0
    kind: str = ""
    message: str = ""


class LiveRequests(_Shown):
    """All open requests of the proxy, the oldest first, and the last ones that failed."""

    at: float = Field(description="Unix time")
    requests: tuple[LiveRequest, ...] = ()
    more: int = Field(default=0, description="open requests that are not listed")
    errors: tuple[SeenError, ...] = ()


def point_between(earlier: JobFigures | None, later: JobFigures) -> FigurePoint:
    """Return what a job did between two readings; only the gauges if there is no earlier one that fits."""
    base = FigurePoint(
        job=later.job,
        deployment=later.deployment,
        at=int(later.at.timestamp()),
        running=later.running,
        waiting=later.waiting,
        kv=_rounded(later.kv_share),
    )
    if earlier is None or not _follows(earlier, later):
        return base
    passed = (later.at - earlier.at).total_seconds()
    queried = later.prefix_queries - earlier.prefix_queries
    hits = (later.prefix_hits - earlier.prefix_hits) / queried if queried > 0 else None
    first, between = later.first_token.since(earlier.first_token), later.between_tokens.since(earlier.between_tokens)
    return base.model_copy(
        update={
            "made": _rounded((later.generation_tokens - earlier.generation_tokens) / passed),
            "read": _rounded((later.prompt_tokens - earlier.prompt_tokens) / passed),
            "hits": _rounded(hits),
            "preempted": later.preemptions - earlier.preemptions,
            "finished": max(0.0, sum(later.finished.values()) - sum(earlier.finished.values())),
            **_quantiles("first", first),
            **_quantiles("next", between),
        }
    )


def shown_text(text: str) -> str:
    """Return a text of a client or a server in the length that is shown."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _follows(earlier: JobFigures, later: JobFigures) -> bool:
    """Return whether a rate can be made of the two: the same server, not restarted, and not too long apart."""
    passed = (later.at - earlier.at).total_seconds()
    counters = ("generation_tokens", "prompt_tokens", "prefix_queries", "preemptions")
    goes_on = all(getattr(later, name) >= getattr(earlier, name) for name in counters)
    return earlier.job == later.job and 0 < passed <= LONGEST_GAP_S and goes_on


def _quantiles(name: str, histogram: LatencyHistogram) -> dict[str, float | None]:
    return {f"{name}50": _rounded(histogram.quantile(0.5)), f"{name}95": _rounded(histogram.quantile(0.95))}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
