"""vLLM's parallel sizes: how the GPUs of a job share one model. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bouchet_core.errors import LaunchRefusedError

from .catalog import ModelEntry

# vLLM's options, long and short
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
