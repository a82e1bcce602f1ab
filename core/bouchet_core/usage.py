"""Usage: one record for each request, and sums of records. Neither contains a prompt, an answer or a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from .values import FrozenModel


class UsageBy(StrEnum):
    """The dimensions of usage sums."""

    KEY = "key"
    MODEL = "model"
    SESSION = "session"
    DEPLOYMENT = "deployment"


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One request that has ended. Empty strings are unknown.

    id: of the request, so that a record that is written twice counts once. at: Unix time of its end. key: a key's name;
    session: a hash. input: prompt tokens that were not in the prefix cache; cached: those that were. first_ms: from the
    request to the model until the first byte of a streamed answer, None without one. generating_ms: from there (without
    a stream: from the request) until the end. error: empty on success. job: Slurm's name of the job that answered.
    request_class, agent: what Claude Code calls the request (`main`, `subagent`) and the agent that made it. client:
    the program, from its user agent. continued: how often another job went on with the answer, as its own had ended.
    """

    at: float
    key: str
    model: str
    session: str
    deployment: str
    endpoint: str
    status: int
    error: str
    input: int
    cached: int
    output: int
    first_ms: int | None
    generating_ms: int
    id: str = ""
    job: str = ""
    request_class: str = ""
    agent: str = ""
    client: str = ""
    continued: int = 0


class UsageSummary(FrozenModel):
    """Usage over some time of one key, model, session or deployment. Tokens and requests are counts."""

    name: str
    requests: int = 0
    input_tokens: int = Field(default=0, description="prompt tokens that were computed")
    cached_tokens: int = Field(default=0, description="prompt tokens found in the prefix cache")
    output_tokens: int = 0
    first_token_ms: int | None = Field(default=None, description="mean time to the first byte of streamed answers")
    tokens_per_second: float | None = Field(default=None, description="mean generation speed of one answer")
    continued: int = Field(default=0, description="answers that another job went on with, as their own had ended")
    errors: int = 0
    errors_by_kind: Mapping[str, int] = {}


def summary_of(name: str, counts: Mapping[str, int]) -> UsageSummary:
    """Return the summary of these counts, with means."""
    streams, made_ms = counts.get("streams", 0), counts.get("made_ms", 0)
    kinds = {key.removeprefix("error."): count for key, count in counts.items() if key.startswith("error.")}
    return UsageSummary(
        name=name,
        requests=counts.get("requests", 0),
        input_tokens=counts.get("input", 0),
        cached_tokens=counts.get("cached", 0),
        output_tokens=counts.get("output", 0),
        first_token_ms=round(counts.get("first_ms", 0) / streams) if streams else None,
        tokens_per_second=round(counts.get("made", 0) * 1000 / made_ms, 1) if made_ms else None,
        continued=counts.get("continued", 0),
        errors=counts.get("errors", 0),
        errors_by_kind=dict(sorted(kinds.items())),
    )
