"""How the GPUs of a job share one model: vLLM's parallel sizes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bouchet_core.errors import LaunchRefusedError

from .catalog import ModelEntry

# vLLM's options and their short forms
_SIZES = {
    "--tensor-parallel-size": "tensor",
    "-tp": "tensor",
    "--pipeline-parallel-size": "pipeline",
    "-pp": "pipeline",
    "--data-parallel-size": "data",
    "-dp": "data",
}


@dataclass(frozen=True)
class Parallel:
    """tensor: GPUs that share every layer; pipeline: groups of layers; data: copies; experts: spread over them."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    experts: bool = False

    @property
    def gpus(self) -> int:
        """GPUs it takes (processes, where there are none)."""
        return self.tensor * self.pipeline * self.data

    @property
    def arguments(self) -> tuple[str, ...]:
        """As vLLM is told; what is 1 anyway is left out."""
        sizes = {"--tensor-parallel-size": self.tensor, "--pipeline-parallel-size": self.pipeline}
        sizes["--data-parallel-size"] = self.data
        words = [word for option, size in sizes.items() if size > 1 for word in (option, str(size))]
        return (*words, *(("--enable-expert-parallel",) if self.experts else ()))


def parallel_of(entry: ModelEntry, gpus: int, nodes: int) -> Parallel:
    """The sizes for so many GPUs (all nodes together) on so many nodes, as the catalog wants them shared.

    Sizes among the entry's extra_args win; LaunchRefusedError when those are for another number of GPUs.
    """
    wanted = max(gpus, nodes)
    named = _named(entry.extra_args)
    if named is not None:
        if named.gpus != wanted:
            sizes = f"tensor {named.tensor} x pipeline {named.pipeline} x data {named.data}"
            raise LaunchRefusedError(
                f"{entry.alias} is set to run on {named.gpus} GPUs ({sizes} in its extra_args), not on {wanted}; "
                f"use --gpus {named.gpus}, or say `parallel:` in its catalog entry instead"
            )
        return named
    if entry.parallel == "tensor":
        # layers are shared within a node, where GPUs are close; between nodes travels only what leaves a group of them
        return Parallel(tensor=wanted // nodes, pipeline=nodes)
    if entry.parallel == "wide":
        return Parallel(tensor=wanted)
    return Parallel(data=wanted, experts=entry.parallel == "expert")


def names_sizes(words: Sequence[str]) -> bool:
    """Whether arguments of vLLM name parallel sizes themselves."""
    return _named(words) is not None


def _named(words: Sequence[str]) -> Parallel | None:
    sizes: dict[str, int] = {}
    for at, word in enumerate(words):
        option, _, value = word.partition("=")
        if option in _SIZES:
            following = words[at + 1] if at + 1 < len(words) else ""
            text = value or following
            sizes[_SIZES[option]] = int(text) if text.isascii() and text.isdigit() else 1
    return Parallel(sizes.get("tensor", 1), sizes.get("pipeline", 1), sizes.get("data", 1)) if sizes else None
