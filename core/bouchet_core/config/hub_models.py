"""Models of the hub that the catalog does not have: what is asked, and the catalog entry that is proposed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from bouchet_core.batch_jobs import ModelId, Revision
from bouchet_core.errors import BouchetError, RecordError
from bouchet_core.values import FrozenModel

from .catalog import ModelEntry

# fields in the order in which people write them
_ORDER = (
    "alias", "description", "gpus", "nodes", "parallel", "window", "quant", "kv_cache_dtype", "tool_parser",
    "reasoning_parser", "thinking", "vision", "max_output", "min_vllm", "weights_gib", "image", "extra_args", "env",
)  # fmt: skip
# words that YAML does not read as text
_NOT_TEXT = frozenset(("on", "off", "yes", "no", "true", "false", "null", "~"))
_PLAIN = re.compile(r"^[A-Za-z_][A-Za-z0-9_./ -]*$")


class HubModelError(BouchetError):
    """The hub has no such model for us, or vLLM could not load it. problem: a word for programs."""

    kind = "hub_model"

    def __init__(self, detail: str, problem: str = "not_servable") -> None:
        self.problem = problem
        super().__init__(detail)


class ModelInUseError(RecordError):
    """A live deployment or download uses the model's weights."""

    kind = "model_in_use"

    def __init__(self, model: str, users: Sequence[str]) -> None:
        self.model, self.users = model, tuple(users)
        verb = "uses" if len(self.users) == 1 else "use"
        super().__init__(f"{', '.join(users)} {verb} {model}; `bouchet cancel` first, or add --force")


class ModelMissingError(RecordError):
    """There are no weights of the model that could be removed."""

    kind = "model_missing"

    def __init__(self, model: str, why: str = "") -> None:
        self.model = model
        super().__init__(f"nothing of {model} can be removed from the cluster: {why or 'it is not there'}")


class HubModelRequest(FrozenModel):
    """A question about a model of the hub."""

    model: ModelId = Field(description="full id `org/name`")
    revision: Revision = Field(default="main", description="branch, tag or commit")


class GpuFit(FrozenModel):
    """Whether the model fits a number of GPUs of one type."""

    gpu_type: str
    gpus: int
    quant: str = Field(description="fp8: quantised while loading; none: as it is")
    fits: bool
    window: int | None = Field(default=None, description="the longest proposed window that fits, in tokens")
    conversations: float | None = Field(default=None, description="conversations of that window at once")
    weights_gib: float | None = Field(default=None, description="weights on one GPU")


class ModelProposal(FrozenModel):
    """What the hub says of a model, and the catalog entry that follows from it."""

    model: str
    commit: str
    gated: bool
    bytes: int = Field(description="size of the download")
    files: int
    architecture: str
    parameters: int | None = None
    entry: ModelEntry
    fits: tuple[GpuFit, ...] = Field(description="by GPU type and number of GPUs")
    notes: tuple[str, ...] = Field(default=(), description="what was not found, or has to be known")


class RemovedModel(FrozenModel):
    """Weights that were removed from the cluster."""

    model: str
    bytes: int
    folders: tuple[str, ...]


def free_alias(wanted: str, taken: Sequence[str]) -> str:
    """Return the alias, with a number behind it where others have it already."""
    number, alias = 2, wanted
    while alias in taken:
        alias = f"{wanted[:60]}-{number}"
        number += 1
    return alias


def entry_block(model: str, entry: ModelEntry) -> str:
    """Return the lines of a catalog file, indented below `models:`, that describe this entry."""
    values = entry.model_dump(mode="json", exclude_defaults=True)
    lines = [f"  {model}:"]
    for name in _ORDER:
        if name in values:
            lines += _field_lines(name, values[name])
    return "\n".join(lines) + "\n"


def _field_lines(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"    {name}:", *(f"      - {_scalar(item)}" for item in value)]
    if isinstance(value, Mapping):
        return [f"    {name}:", *(f"      {key}: {_scalar(item)}" for key, item in value.items())]
    return [f"    {name}: {_scalar(value)}"]


def _scalar(value: Any) -> str:
    """Return a value as YAML reads it back; JSON's form is YAML's too."""
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _NOT_TEXT and value == value.strip():
        return value
    return json.dumps(value, ensure_ascii=False)
