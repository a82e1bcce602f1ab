"""The sum itself, and what is said of it: what fits, or what would. Pure.

vLLM may use a share of a GPU; weights and its own work come off that, and the rest is the KV cache, which has to hold
one conversation of the full window. Work is an estimate, so a launch is refused only where it is short by more than
that may be off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from bouchet_core.deployments import MemoryEstimate
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.parallel import Parallel

from .architecture import Shape
from .kv_cache import Pool, pool_of
from .vllm_args import GIB, Asked
from .weights import Tensors, of_named_size, on_one_gpu

# outside of torch: CUDA's libraries, and NCCL's buffers where GPUs talk
LIBRARIES_GIB, NCCL_GIB = 0.6, 0.5
GRAPHS_GIB = 0.8
# the sampler holds each conversation's row of the vocabulary in 4 bytes so many times over
SAMPLER_COPIES = 7
# values of a token between two layers, and of the feed-forward part, alive at once
BETWEEN, INSIDE = 6, 3
# of weights: kernels keep some of them padded or twice
WEIGHTS_SLACK = 0.03
MOST_GPUS = 64


@dataclass(frozen=True)
class Model:
    """What is known of a model. named_gib: what the catalog says of its weights; source: where all this is from."""

    name: str
    shape: Shape | None = None
    tensors: Sequence[Tensors] = field(default=())
    named_gib: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Sum:
    """gpu_gib: of one GPU, None where it is not known (or there is none: host_gib is then the job's memory).

    most_gpus: what may be suggested.
    """

    model: Model
    asked: Asked
    gpu_gib: float | None
    host_gib: float | None = None
    most_gpus: int = MOST_GPUS

    @property
    def fp8(self) -> bool:
        """Whether weights are quantised while loading; what is quantised already is left as it is."""
        return self.asked.fp8 and not (self.model.shape and self.model.shape.quantised)

    @property
    def weights_gib(self) -> float | None:
        """On one GPU."""
        model, parallel = self.model, self.asked.parallel
        if model.tensors and model.shape:
            return on_one_gpu(model.tensors, model.shape, parallel, fp8=self.fp8) / GIB
        if model.named_gib is None:
            return None
        return of_named_size(model.named_gib, parallel, fp8=self.fp8, experts=parallel.experts)

    @property
    def work_gib(self) -> float | None:
        """Besides weights and cache, on one GPU; an estimate."""
        shape, asked = self.model.shape, self.asked
        if shape is None or asked.cpu:
            return None
        copies = asked.parallel.data if asked.parallel.experts else 1
        token = shape.value_bytes * (BETWEEN * shape.hidden + INSIDE * shape.wide / asked.parallel.tensor)
        forward = asked.batch_tokens * token * max(1.0, copies / 2)
        sampler = asked.sequences * shape.vocabulary * 4 * SAMPLER_COPIES
        fixed = LIBRARIES_GIB + (NCCL_GIB if asked.parallel.gpus > 1 else 0) + (0 if asked.eager else GRAPHS_GIB)
        return fixed + max(forward, sampler) / GIB

    @property
    def pool(self) -> Pool | None:
        """The layout of the cache."""
        return pool_of(self.model.shape, self.asked) if self.model.shape else None

    @property
    def usable_gib(self) -> float | None:
        """What vLLM may use of one GPU."""
        return None if self.gpu_gib is None else self.gpu_gib * self.asked.share

    @property
    def cache_gib(self) -> float | None:
        """Left for the cache of one GPU; below zero where not even the weights fit."""
        if self.asked.pool_bytes is not None:
            return self.asked.pool_bytes / GIB
        if self.usable_gib is None or self.weights_gib is None or self.work_gib is None:
            return None
        return self.usable_gib - self.weights_gib - self.work_gib

    @property
    def slack_gib(self) -> float:
        """How far the sum may be off."""
        if self.asked.pool_bytes is not None:
            return 0.0
        return (self.work_gib or 0) / 2 + (self.weights_gib or 0) * WEIGHTS_SLACK

    @property
    def window_gib(self) -> float | None:
        """Cache that one conversation of the full window takes on one GPU."""
        return None if self.pool is None else self.pool.bytes_of(self.asked.window) / GIB

    @property
    def weights_fit(self) -> bool:
        """True where it is not known."""
        if self.weights_gib is None:
            return True
        if self.asked.cpu:
            cache = (self.asked.pool_bytes or 0) / GIB
            return self.host_gib is None or self.weights_gib + cache <= self.host_gib
        return self.usable_gib is None or self.weights_gib <= self.usable_gib + self.slack_gib - (self.work_gib or 0)

    @property
    def window_fits(self) -> bool:
        """True where it is not known."""
        if self.window_gib is None or self.cache_gib is None:
            return True
        return self.window_gib <= self.cache_gib + self.slack_gib

    @property
    def conversations(self) -> float | None:
        """Of the full window, at once, over all copies of the model."""
        if self.pool is None or self.cache_gib is None:
            return None
        most = self.asked.sequences
        each = self.pool.conversations(max(self.cache_gib, 0) * GIB, self.asked.window)
        return min(each, most) * self.asked.parallel.data


def reckon(
    model: Model,
    asked: Asked,
    gpu_gib: float | None,
    host_gib: float | None = None,
    most_gpus: int = MOST_GPUS,
) -> MemoryEstimate:
    """The sum for one launch. LaunchRefusedError, in a sentence with the sum, where it cannot fit."""
    total = Sum(model, asked, gpu_gib, host_gib, most_gpus)
    _refuse_long_window(total)
    if not total.weights_fit:
        raise LaunchRefusedError(_weights_sentence(total))
    if not total.window_fits:
        raise LaunchRefusedError(_window_sentence(total))
    return MemoryEstimate(
        gpu_gib=total.gpu_gib,
        share=None if gpu_gib is None or asked.pool_bytes is not None else asked.share,
        weights_gib=_rounded(total.weights_gib),
        work_gib=_rounded(total.work_gib),
        cache_gib=_rounded(total.cache_gib),
        token_bytes=total.pool.token_bytes if total.pool else None,
        window_gib=_rounded(total.window_gib, 3),
        window=asked.window,
        longest=model.shape.longest if model.shape else None,
        conversations=_rounded(total.conversations),
        source=model.source,
        note=_note(total),
    )


def _refuse_long_window(total: Sum) -> None:
    shape, asked = total.model.shape, total.asked
    longest = shape.longest if shape else None
    if longest is None or asked.window <= longest or asked.long_allowed or asked.overridden:
        return
    raise LaunchRefusedError(
        f"a window of {asked.window} tokens is more than {total.model.name} was made for: its config.json says "
        f"{longest}; use --max-len {longest} or less"
    )


def _note(total: Sum) -> str:
    shape = total.model.shape
    if total.cache_gib is not None and total.pool is not None and total.conversations is not None:
        if total.conversations < total.asked.parallel.data:
            return "it should just fit, by an estimate that may be off a little: one conversation of the full window"
        count = total.conversations
        words = f"{count:.1f}" if count < 10 else f"{count:.0f}"
        return f"about {words} conversations of the full window fit at once"
    if shape is None:
        why = "the model's config.json could not be read"
    elif total.pool is None:
        known = f"the cache of a {shape.kind} model is not known here"
        why = "its extra arguments change what its config.json says" if shape.attention else known
    elif total.weights_gib is None:
        why = "the size of its weights is not known"
    else:
        why = "the memory of these GPUs is not known (`gpu_memory_gib` in the site file)"
    what = "weights fit; the window was not checked" if _weights_known(total) else "not checked"
    return f"{what}: {why}"


def _weights_known(total: Sum) -> bool:
    return total.weights_gib is not None and total.usable_gib is not None and not total.asked.cpu


# refusals


def _weights_sentence(total: Sum) -> str:
    weights, asked = total.weights_gib or 0, total.asked
    if asked.cpu:
        cache = (asked.pool_bytes or 0) / GIB
        return (
            f"{total.model.name} does not fit: weights of {weights:.1f} GiB and a cache of {cache:.1f} GiB are more "
            f"than the job's memory of {total.host_gib:.0f} GiB"
        )
    work = f", and its own work takes about {total.work_gib:.1f} GiB" if total.work_gib else ""
    return (
        f"{total.model.name} does not fit: its weights take {weights:.1f} GiB on {_gpus(asked.parallel.gpus)}, "
        f"where vLLM may use {total.usable_gib:.1f} GiB ({total.gpu_gib:g} x {asked.share:g}){work}{_would(total)}"
    )


def _window_sentence(total: Sum) -> str:
    asked, pool = total.asked, total.pool
    each = f" ({pool.token_bytes / 1024:.1f} KiB a token)" if pool else ""
    if asked.pool_bytes is not None:
        left = f"its cache is set to {total.cache_gib:.2f} GiB"
    else:
        left = (
            f"{max(total.cache_gib or 0, 0):.1f} GiB are left for it on {_gpus(asked.parallel.gpus)} "
            f"({total.gpu_gib:g} x {asked.share:g} - {total.weights_gib:.1f} of weights - about {total.work_gib:.1f})"
        )
    return (
        f"a window of {asked.window} tokens does not fit: one conversation takes {total.window_gib:.1f} GiB of "
        f"KV cache{each}, and {left}{_would(total)}"
    )


def _would(total: Sum) -> str:
    ways = list(_ways(total))
    return f"; it would with {' or '.join(ways)}" if ways else "; nothing that can be asked for makes it fit"


def _ways(total: Sum) -> Iterator[str]:
    """Options of `bouchet launch` with each of which it would fit."""
    if total.weights_fit and total.pool is not None and total.cache_gib is not None:
        longest = total.pool.longest(total.cache_gib * GIB, total.asked.window)
        if longest >= 1024:
            yield f"--max-len {longest}"
    asked, shape = total.asked, total.model.shape
    if not asked.fp8 and shape is not None and not shape.quantised and _fits(replace(total, asked=_fp8(asked))):
        yield "--quant fp8"
    smaller = replace(asked, cache_bytes=1)
    if asked.cache_bytes is None and not asked.cpu and total.pool and _fits(replace(total, asked=smaller)):
        yield "--kv-cache-dtype fp8"
    gpus = _enough_gpus(total)
    if gpus is not None:
        yield f"--gpus {gpus}"


def _fp8(asked: Asked) -> Asked:
    return replace(asked, fp8=True)


def _enough_gpus(total: Sum) -> int | None:
    """The number of GPUs, doubled as often as it takes; None where more do not help."""
    parallel = total.asked.parallel
    if total.gpu_gib is None or total.asked.pool_bytes is not None:
        return None
    while parallel.gpus * 2 <= total.most_gpus:
        parallel = _doubled(parallel)
        if _fits(replace(total, asked=replace(total.asked, parallel=parallel))):
            return parallel.gpus
    return None


def _doubled(parallel: Parallel) -> Parallel:
    if parallel.data > 1 or parallel.experts:
        return replace(parallel, data=parallel.data * 2)
    return replace(parallel, tensor=parallel.tensor * 2)


def _fits(total: Sum) -> bool:
    return total.weights_fit and total.window_fits


def _gpus(count: int) -> str:
    return "the GPU" if count == 1 else f"each of {count} GPUs"


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
