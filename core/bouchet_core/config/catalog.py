"""The catalog (`models.yaml`): which models can be served, their defaults, and their parallel sizes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from bouchet_core.deployments import Deployment, Traits
from bouchet_core.errors import ConfigurationError, LaunchRefusedError, UnknownModelError
from bouchet_core.values import DeploymentName, FrozenModel, HubId, SingleLine

from .yaml_files import read_yaml

# the catalog that `bouchet models add` writes, `sites/NAME.added.yaml`; there need not be one
ADDED_SUFFIX = ".added.yaml"

EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
# vLLM's options, long and short
_SIZES = {
    "--tensor-parallel-size": "tensor",
    "-tp": "tensor",
    "--pipeline-parallel-size": "pipeline",
    "-pp": "pipeline",
    "--data-parallel-size": "data",
    "-dp": "data",
}


class ModelEntry(FrozenModel):
    """One model of the catalog. Units: window and max_output in tokens, weights in GiB."""

    alias: DeploymentName = Field(description="short name for clients; it must not begin with `claude-`")
    description: str = ""
    gpus: int = Field(default=1, ge=0, le=256, description="GPUs it needs; 0 serves on the CPU")
    nodes: int = Field(default=1, ge=1, le=32, description="nodes that share its GPUs evenly")
    parallel: Literal["tensor", "wide", "data", "expert"] = Field(
        default="tensor",
        description="how the GPUs share the model. tensor: each layer within a node, pipeline stages across nodes; "
        "wide: each layer over all nodes; "
        "data: one replica for each GPU; expert: one replica for each GPU, with the experts sharded over all GPUs",
    )
    window: int = Field(ge=256, description="context window in tokens (--max-model-len)")
    quant: Literal["fp8", "none"] = Field(
        default="none", description="fp8 quantises at load; none serves the weights as they are"
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        default="auto", description="type of the KV cache: fp8 halves its size, and so the memory of a long window"
    )
    tool_parser: str | None = Field(
        default=None, description="vLLM's --tool-call-parser; without one, tool calling is off"
    )
    reasoning_parser: str | None = None
    tool_search: bool = Field(
        default=True,
        description="whether `bouchet` lets Claude Code load most tools when it needs them; false sends all at once",
    )
    chat_template: str | None = None
    thinking: Literal["none", "off", "on", "always"] = Field(
        default="none", description="none: no reasoning model; off, on: its default; always: cannot be turned off"
    )
    vision: bool = False
    on_demand: bool = Field(default=False, description="launches are on demand: parked while no request comes")
    max_output: int = Field(default=32_000, ge=1, description="answer length in tokens if a client sets none")
    min_vllm: str = Field(default="0.10", pattern=r"^\d+(\.\d+){1,2}$")
    weights_gib: float | None = Field(
        default=None, gt=0, description="size of its weights in GiB; a downloaded model's real size is used instead"
    )
    image: str | None = Field(default=None, description="image pin; the site's default if absent")
    extra_args: tuple[SingleLine, ...] = Field(default=(), description="further arguments of `vllm serve`")
    env: Mapping[EnvName, SingleLine] = Field(default_factory=dict, description="environment of vLLM in the container")

    @property
    def traits(self) -> Traits:
        """The fields that the proxy needs."""
        return Traits(
            thinking=self.thinking,
            vision=self.vision,
            max_output=self.max_output,
            tool_parser=self.tool_parser,
            reasoning_parser=self.reasoning_parser,
            tool_search=self.tool_search,
        )


class CatalogDocument(FrozenModel):
    """A catalog file."""

    default: HubId | None = None
    models: Mapping[HubId, ModelEntry]


class Catalog:
    """Models that can be launched, by Hugging Face id."""

    def __init__(self, entries: Mapping[str, ModelEntry], default: str | None = None) -> None:
        self.entries = dict(entries)
        self.default = default

    def __or__(self, other: Catalog) -> Catalog:
        """Merge two catalogs; entries and default of the other one win."""
        return Catalog({**self.entries, **other.entries}, other.default or self.default)

    def find(self, model: str) -> tuple[str, ModelEntry]:
        """Return id and entry for an id or alias, in any case, or the end of one after a dash or slash if it is unique.

        UnknownModelError names the nearest.
        """
        wanted = model.lower()
        for identity, entry in self.entries.items():
            if wanted in (identity.lower(), entry.alias):
                return identity, entry
        ends = (f"/{wanted}", f"-{wanted}")
        parts = [i for i, entry in self.entries.items() if i.lower().endswith(ends) or entry.alias.endswith(ends)]
        if len(parts) == 1:
            return parts[0], self.entries[parts[0]]
        names = [*self.entries, *(entry.alias for entry in self.entries.values())]
        raise UnknownModelError(model, tuple(self.entries), _nearest(wanted, names))


def entry_of(record: Deployment, catalog: Catalog) -> ModelEntry:
    """Return the catalog entry from the time of the launch, or today's for a record without one.

    Raises UnknownModelError, and LaunchRefusedError for an entry that this version cannot read.
    """
    if not record.entry:
        return catalog.find(record.model)[1]
    try:
        return ModelEntry.model_validate(record.entry)
    except ValidationError as exc:
        problem = f"its recorded catalog entry is from another version of bouchet-llm ({exc.errors()[0]['msg']})"
        raise LaunchRefusedError(f"{problem}; use `bouchet launch {record.model}` instead") from exc


def _nearest(wanted: str, names: Sequence[str]) -> Sequence[str]:
    by_lower = {name.lower(): name for name in names}
    short = {name.rpartition("/")[2]: name for name in by_lower}
    near = difflib.get_close_matches(wanted, [*by_lower, *short], n=3, cutoff=0.5)
    return list(dict.fromkeys(by_lower[short.get(name, name)] for name in near))


def load_catalog(*paths: Path) -> Catalog:
    """Read and merge catalog files, later ones win; ConfigurationError has file and line of a mistake."""
    catalog = Catalog({})
    for path in paths:
        if path.name.endswith(ADDED_SUFFIX) and not path.exists():
            continue
        document = read_yaml(path, CatalogDocument)
        _check_aliases(path, document)
        catalog |= Catalog(document.models, document.default)
    if catalog.default is not None and catalog.default not in catalog.entries:
        raise ConfigurationError(str(paths[-1]), f"default {catalog.default!r} is not among the models")
    return catalog


def _check_aliases(path: Path, document: CatalogDocument) -> None:
    owners: dict[str, str] = {}
    for identity, entry in document.models.items():
        if entry.alias.startswith("claude-"):
            # Claude Code assumes the window sizes of Anthropic's models for such names
            raise ConfigurationError(str(path), f"alias {entry.alias!r} of {identity} must not begin with 'claude-'")
        if entry.alias in owners:
            both = f"{owners[entry.alias]} and {identity}"
            raise ConfigurationError(str(path), f"alias {entry.alias!r} is used by {both}")
        owners[entry.alias] = identity


@dataclass(frozen=True)
class Parallel:
    """Parallel sizes of one server. experts: MoE experts are sharded over all GPUs."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    experts: bool = False

    @property
    def gpus(self) -> int:
        """GPUs in all; on a CPU, processes."""
        return self.tensor * self.pipeline * self.data

    @property
    def arguments(self) -> tuple[str, ...]:
        """vLLM's arguments, without sizes of 1."""
        sizes = {"--tensor-parallel-size": self.tensor, "--pipeline-parallel-size": self.pipeline}
        sizes["--data-parallel-size"] = self.data
        arguments = [text for option, size in sizes.items() if size > 1 for text in (option, str(size))]
        return (*arguments, *(("--enable-expert-parallel",) if self.experts else ()))


def parallel_of(entry: ModelEntry, gpus: int, nodes: int) -> Parallel:
    """Return the sizes for this number of GPUs (of all nodes together) and nodes.

    Sizes in the entry's extra_args win; LaunchRefusedError if they are for another number of GPUs.
    """
    wanted = max(gpus, nodes)
    named = _named(entry.extra_args)
    if named is not None:
        if named.gpus != wanted:
            sizes = f"tensor {named.tensor} x pipeline {named.pipeline} x data {named.data}"
            raise LaunchRefusedError(
                f"the extra_args of {entry.alias} are for {named.gpus} GPUs ({sizes}), not for {wanted}; "
                f"use --gpus {named.gpus}, or set `parallel:` in its catalog entry instead"
            )
        return named
    if entry.parallel == "tensor":
        # tensor parallelism needs the fast links within a node; pipeline stages send little between nodes
        return Parallel(tensor=wanted // nodes, pipeline=nodes)
    if entry.parallel == "wide":
        return Parallel(tensor=wanted)
    return Parallel(data=wanted, experts=entry.parallel == "expert")


def names_parallel_sizes(arguments: Sequence[str]) -> bool:
    """Return whether vLLM's arguments contain parallel sizes."""
    return _named(arguments) is not None


def _named(arguments: Sequence[str]) -> Parallel | None:
    sizes: dict[str, int] = {}
    for at, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option in _SIZES:
            following = arguments[at + 1] if at + 1 < len(arguments) else ""
            text = value or following
            sizes[_SIZES[option]] = int(text) if text.isascii() and text.isdigit() else 1
    return Parallel(sizes.get("tensor", 1), sizes.get("pipeline", 1), sizes.get("data", 1)) if sizes else None
