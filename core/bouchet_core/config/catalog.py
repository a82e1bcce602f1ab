"""The catalog: which models can be served, and with which defaults (`models.yaml`)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from bouchet_core.deployments import Deployment, Traits
from bouchet_core.errors import ConfigurationError, LaunchRefusedError, UnknownModelError
from bouchet_core.values import DeploymentName, FrozenModel, HubId, SingleLine

from .yaml_files import read_yaml

EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]


class ModelEntry(FrozenModel):
    """One model of the catalog. Sizes: window and max_output in tokens, weights in GiB."""

    alias: DeploymentName = Field(description="short name clients use; it must not begin with `claude-`")
    description: str = ""
    gpus: int = Field(default=1, ge=0, le=256, description="GPUs it needs; 0 serves on the CPU and still asks for none")
    nodes: int = Field(default=1, ge=1, le=32, description="nodes that its GPUs are spread over evenly")
    parallel: Literal["tensor", "wide", "data", "expert"] = Field(
        default="tensor",
        description="how GPUs share it. tensor: every layer within a node, groups of layers between nodes; "
        "wide: every layer, over all nodes; "
        "data: a copy each; expert: a copy each but for the experts, which are spread over all",
    )
    window: int = Field(ge=256, description="context window in tokens (--max-model-len)")
    quant: Literal["fp8", "none"] = Field(
        default="none", description="fp8 quantises at load; none serves what is there"
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        default="auto", description="type of the KV cache: fp8 halves it, and with it what a long window takes"
    )
    tool_parser: str | None = Field(
        default=None, description="vLLM's --tool-call-parser; without it the model has no tools"
    )
    reasoning_parser: str | None = None
    chat_template: str | None = None
    thinking: Literal["none", "off", "on", "always"] = Field(
        default="none", description="none: cannot think; off, on: its default here; always: cannot be turned off"
    )
    vision: bool = False
    max_output: int = Field(default=32_000, ge=1, description="answer length when a client names none")
    min_vllm: str = Field(default="0.10", pattern=r"^\d+(\.\d+){1,2}$")
    weights_gib: float | None = Field(
        default=None, gt=0, description="size of its weights; where it is on disk, that counts"
    )
    image: str | None = Field(default=None, description="image pin; the site's default when absent")
    extra_args: tuple[SingleLine, ...] = Field(default=(), description="further arguments of `vllm serve`")
    env: Mapping[EnvName, SingleLine] = Field(default_factory=dict, description="environment of vLLM in the container")

    @property
    def traits(self) -> Traits:
        """What the proxy must know of it."""
        return Traits(
            thinking=self.thinking,
            vision=self.vision,
            max_output=self.max_output,
            tool_parser=self.tool_parser,
            reasoning_parser=self.reasoning_parser,
        )


class CatalogDocument(FrozenModel):
    """A catalog file."""

    default: HubId | None = None
    models: Mapping[HubId, ModelEntry]


class Catalog:
    """All models that can be launched, by Hugging Face id."""

    def __init__(self, entries: Mapping[str, ModelEntry], default: str | None = None) -> None:
        self.entries = dict(entries)
        self.default = default

    def __or__(self, other: Catalog) -> Catalog:
        """Both catalogs as one; the other's entries and default win."""
        return Catalog({**self.entries, **other.entries}, other.default or self.default)

    def find(self, model: str) -> tuple[str, ModelEntry]:
        """Id and entry of a model named by its id or alias, in any case; UnknownModelError names the nearest."""
        wanted = model.lower()
        for identity, entry in self.entries.items():
            if wanted in (identity.lower(), entry.alias):
                return identity, entry
        words = [*self.entries, *(entry.alias for entry in self.entries.values())]
        raise UnknownModelError(model, tuple(self.entries), _nearest(wanted, words))


def entry_of(record: Deployment, catalog: Catalog) -> ModelEntry:
    """The model's entry as it was when the deployment was asked for; today's of a record that does not hold it.

    Raises UnknownModelError, and LaunchRefusedError where the entry of another version means nothing to this one.
    """
    if not record.entry:
        return catalog.find(record.model)[1]
    try:
        return ModelEntry.model_validate(record.entry)
    except ValidationError as exc:
        what = f"its catalog entry was kept by another version of bouchet-llm ({exc.errors()[0]['msg']})"
        raise LaunchRefusedError(f"{what}; `bouchet launch {record.model}` asks for it anew") from exc


def _nearest(wanted: str, words: Sequence[str]) -> Sequence[str]:
    by_lower = {word.lower(): word for word in words}
    short = {word.rpartition("/")[2]: word for word in by_lower}
    near = difflib.get_close_matches(wanted, [*by_lower, *short], n=3, cutoff=0.5)
    return list(dict.fromkeys(by_lower[short.get(word, word)] for word in near))


def load_catalog(*paths: Path) -> Catalog:
    """The catalog files as one, later ones winning; ConfigurationError names file and line of what is wrong."""
    catalog = Catalog({})
    for path in paths:
        document = read_yaml(path, CatalogDocument)
        _refuse_bad_aliases(path, document)
        catalog |= Catalog(document.models, document.default)
    if catalog.default is not None and catalog.default not in catalog.entries:
        raise ConfigurationError(str(paths[-1]), f"default {catalog.default!r} is not among the models")
    return catalog


def _refuse_bad_aliases(path: Path, document: CatalogDocument) -> None:
    owners: dict[str, str] = {}
    for identity, entry in document.models.items():
        if entry.alias.startswith("claude-"):
            # Claude Code assumes its own window sizes for names that begin so
            raise ConfigurationError(str(path), f"alias {entry.alias!r} of {identity} must not begin with 'claude-'")
        if entry.alias in owners:
            both = f"{owners[entry.alias]} and {identity}"
            raise ConfigurationError(str(path), f"alias {entry.alias!r} is used by {both}")
        owners[entry.alias] = identity
