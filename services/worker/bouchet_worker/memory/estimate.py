"""GPU memory estimate of a launch, and the messages built from it: what fits, or what would. Pure.

vLLM may use a share of a GPU's memory. Weights and working memory come off that share; the rest is the KV cache, which
has to hold one conversation of the full window. The working memory is an estimate, so a launch is refused only where it
is short by more than the estimate may be off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from bouchet_core.config.catalog import Parallel
from bouchet_core.deployments import MemoryEstimate
from bouchet_core.errors import LaunchRefusedError

from .architecture import Architecture
from .kv_cache import KvCachePool, kv_cache_pool
from .vllm_args import GIB, VllmArgs
from .weights import TensorGroup, least_weights_per_gpu, weights_per_gpu

# memory outside of torch: CUDA's libraries, and NCCL's buffers between GPUs
LIBRARIES_GIB, NCCL_GIB = 0.6, 0.5
CUDA_GRAPHS_GIB = 0.8
# the sampler holds so many 4-byte copies of each sequence's logits
SAMPLER_COPIES = 7
# values per token that are alive at once: between two layers, and in the feed-forward part
BETWEEN_LAYERS, IN_FEED_FORWARD = 6, 3
# share of the weights: kernels pad or copy some of them
WEIGHTS_SLACK = 0.03
MAX_GPUS = 64
# --max-len is not suggested below this
SHORTEST_WINDOW = 1024


@dataclass(frozen=True)
class ModelDescription:
    """What is known of a model. catalog_gib: size of its weights in the catalog; source: where the facts are from."""

    name: str
    architecture: Architecture | None = None
    tensors: Sequence[TensorGroup] = field(default=())
    catalog_gib: float | None = None
    source: str = ""


@dataclass(frozen=True)
class LaunchEstimate:
    """The parts of the estimate, each None when it is not known.

    gpu_gib: memory of one GPU; host_gib: memory of a job without a GPU; max_gpus: the most that may be suggested.
    """

    model: ModelDescription
    args: VllmArgs
    gpu_gib: float | None
    host_gib: float | None = None
    max_gpus: int = MAX_GPUS

    @property
    def fp8(self) -> bool:
        """Whether weights are quantised while loading; an already quantised checkpoint is left as it is."""
        return self.args.fp8 and not (self.model.architecture and self.model.architecture.quantised)

    @property
    def weights_gib(self) -> float | None:
        """Weights on one GPU."""
        model, parallel = self.model, self.args.parallel
        if model.tensors and model.architecture:
            return weights_per_gpu(model.tensors, model.architecture, parallel, fp8=self.fp8) / GIB
        if model.catalog_gib is None:
            return None
        return least_weights_per_gpu(model.catalog_gib, parallel, fp8=self.fp8, experts=parallel.experts)

    @property
    def work_gib(self) -> float | None:
        """Working memory besides weights and cache on one GPU."""
        architecture, args = self.model.architecture, self.args
        if architecture is None or args.cpu:
            return None
        copies = args.parallel.data if args.parallel.experts else 1
        feed_forward = IN_FEED_FORWARD * architecture.feed_forward / args.parallel.tensor
        token = architecture.value_bytes * (BETWEEN_LAYERS * architecture.hidden + feed_forward)
        forward = args.batch_tokens * token * max(1.0, copies / 2)
        sampler = args.max_sequences * architecture.vocabulary * 4 * SAMPLER_COPIES
        fixed = LIBRARIES_GIB + (NCCL_GIB if args.parallel.gpus > 1 else 0) + (0 if args.eager else CUDA_GRAPHS_GIB)
        return fixed + max(forward, sampler) / GIB

    @property
    def pool(self) -> KvCachePool | None:
        """The layout of the KV cache."""
        return kv_cache_pool(self.model.architecture, self.args) if self.model.architecture else None

    @property
    def usable_gib(self) -> float | None:
        """What vLLM may use of one GPU."""
        return None if self.gpu_gib is None else self.gpu_gib * self.args.utilization

    @property
    def cache_gib(self) -> float | None:
        """What is left for the KV cache on one GPU; negative when the weights do not fit."""
        if self.args.cache_bytes is not None:
            return self.args.cache_bytes / GIB
        if self.usable_gib is None or self.weights_gib is None or self.work_gib is None:
            return None
        return self.usable_gib - self.weights_gib - self.work_gib

    @property
    def slack_gib(self) -> float:
        """How far the estimate may be off."""
        if self.args.cache_bytes is not None:
            return 0.0
        return (self.work_gib or 0) / 2 + (self.weights_gib or 0) * WEIGHTS_SLACK

    @property
    def window_gib(self) -> float | None:
        """KV cache of one conversation of the full window on one GPU."""
        return None if self.pool is None else self.pool.bytes_of(self.args.window) / GIB

    @property
    def weights_fit(self) -> bool:
        """Whether the weights fit; True when that is not known."""
        if self.weights_gib is None:
            return True
        if self.args.cpu:
            cache = (self.args.cache_bytes or 0) / GIB
            return self.host_gib is None or self.weights_gib + cache <= self.host_gib
        return self.usable_gib is None or self.weights_gib <= self.usable_gib + self.slack_gib - (self.work_gib or 0)

    @property
    def window_fits(self) -> bool:
        """Whether one conversation of the full window fits; True when that is not known."""
        if self.window_gib is None or self.cache_gib is None:
            return True
        return self.window_gib <= self.cache_gib + self.slack_gib

    @property
    def fits(self) -> bool:
        """Whether weights and window fit."""
        return self.weights_fit and self.window_fits

    @property
    def conversations(self) -> float | None:
        """Conversations of the full window that fit at once, over all data-parallel copies of the model."""
        if self.pool is None or self.cache_gib is None:
            return None
        per_copy = self.pool.conversations(max(self.cache_gib, 0) * GIB, self.args.window)
        return min(per_copy, self.args.max_sequences) * self.args.parallel.data


def estimate_memory(
    model: ModelDescription,
    args: VllmArgs,
    gpu_gib: float | None,
    host_gib: float | None = None,
    max_gpus: int = MAX_GPUS,
) -> MemoryEstimate:
    """Return the estimate of one launch. Raises LaunchRefusedError, with the numbers, when it cannot fit."""
    estimate = LaunchEstimate(model, args, gpu_gib, host_gib, max_gpus)
    _check_longest_window(estimate)
    if not estimate.weights_fit:
        raise LaunchRefusedError(_weights_message(estimate))
    if not estimate.window_fits:
        raise LaunchRefusedError(_window_message(estimate))
    return MemoryEstimate(
        gpu_gib=estimate.gpu_gib,
        share=None if gpu_gib is None or args.cache_bytes is not None else args.utilization,
        weights_gib=_rounded(estimate.weights_gib),
        work_gib=_rounded(estimate.work_gib),
        cache_gib=_rounded(estimate.cache_gib),
        token_bytes=estimate.pool.token_bytes if estimate.pool else None,
        window_gib=_rounded(estimate.window_gib, 3),
        window=args.window,
        longest=model.architecture.longest_window if model.architecture else None,
        conversations=_rounded(estimate.conversations),
        source=model.source,
        note=_note(estimate),
    )


def _check_longest_window(estimate: LaunchEstimate) -> None:
    architecture, args = estimate.model.architecture, estimate.args
    longest = architecture.longest_window if architecture else None
    if longest is None or args.window <= longest or args.long_window_allowed or args.overridden:
        return
    raise LaunchRefusedError(
        f"a window of {args.window} tokens is more than {estimate.model.name} supports: its config.json allows "
        f"{longest}; use --max-len {longest} or less"
    )


def _note(estimate: LaunchEstimate) -> str:
    architecture = estimate.model.architecture
    if estimate.cache_gib is not None and estimate.pool is not None and estimate.conversations is not None:
        count = estimate.conversations
        if count < estimate.args.parallel.data:
            return "one conversation of the full window should just fit, within the error of the estimate"
        number = f"{count:.1f}" if count < 10 else f"{count:.0f}"
        return f"about {number} conversations of the full window fit at once"
    if architecture is None:
        reason = "the model's config.json could not be read"
    elif estimate.pool is None:
        unknown = f"the KV cache layout of {architecture.kind} models is not known"
        reason = "extra arguments override its config.json" if architecture.attention else unknown
    elif estimate.weights_gib is None:
        reason = "the size of its weights is not known"
    else:
        reason = "the memory of these GPUs is not known (`gpu_memory_gib` in the site file)"
    weights_known = estimate.weights_gib is not None and estimate.usable_gib is not None and not estimate.args.cpu
    return f"{'weights fit; the window was not checked' if weights_known else 'not checked'}: {reason}"


def _weights_message(estimate: LaunchEstimate) -> str:
    weights, args, name = estimate.weights_gib or 0, estimate.args, estimate.model.name
    if args.cpu:
        cache = (args.cache_bytes or 0) / GIB
        return (
            f"{name} does not fit: weights of {weights:.1f} GiB and a KV cache of {cache:.1f} GiB need more than the "
            f"job's memory of {estimate.host_gib:.0f} GiB"
        )
    work = f", and its working memory is about {estimate.work_gib:.1f} GiB" if estimate.work_gib else ""
    return (
        f"{name} does not fit: its weights take {weights:.1f} GiB on {_gpus(args.parallel.gpus)}, where vLLM may use "
        f"{estimate.usable_gib:.1f} GiB ({estimate.gpu_gib:g} x {args.utilization:g}){work}{_suggestion(estimate)}"
    )


def _window_message(estimate: LaunchEstimate) -> str:
    args, pool = estimate.args, estimate.pool
    per_token = f" ({pool.token_bytes / 1024:.1f} KiB per token)" if pool else ""
    if args.cache_bytes is not None:
        left = f"the KV cache is set to {estimate.cache_gib:.2f} GiB"
    else:
        left = (
            f"{max(estimate.cache_gib or 0, 0):.1f} GiB are left on {_gpus(args.parallel.gpus)} ({estimate.gpu_gib:g} "
            f"x {args.utilization:g} - {estimate.weights_gib:.1f} weights - about {estimate.work_gib:.1f} working "
            f"memory)"
        )
    return (
        f"a window of {args.window} tokens does not fit: one conversation takes {estimate.window_gib:.1f} GiB of "
        f"KV cache{per_token}, but {left}{_suggestion(estimate)}"
    )


def _suggestion(estimate: LaunchEstimate) -> str:
    options = list(_helpful_options(estimate))
    return f"; it fits with {' or '.join(options)}" if options else "; no option makes it fit"


def _helpful_options(estimate: LaunchEstimate) -> Iterator[str]:
    """Yield options of `bouchet launch`, with each of which the launch fits."""
    args, architecture = estimate.args, estimate.model.architecture
    if estimate.weights_fit and estimate.pool is not None and estimate.cache_gib is not None:
        longest = estimate.pool.longest_window(estimate.cache_gib * GIB, args.window)
        if longest >= SHORTEST_WINDOW:
            yield f"--max-len {longest}"
    quantisable = not args.fp8 and architecture is not None and not architecture.quantised
    if quantisable and replace(estimate, args=replace(args, fp8=True)).fits:
        yield "--quant fp8"
    smaller = replace(args, cache_value_bytes=1)
    has_cache_type = args.cache_value_bytes is not None or args.cpu or not estimate.pool
    if not has_cache_type and replace(estimate, args=smaller).fits:
        yield "--kv-cache-dtype fp8"
    gpus = _sufficient_gpus(estimate)
    if gpus is not None:
        yield f"--gpus {gpus}"


def _sufficient_gpus(estimate: LaunchEstimate) -> int | None:
    """Return the number of GPUs, doubled until the launch fits; None when more GPUs do not help."""
    parallel = estimate.args.parallel
    if estimate.gpu_gib is None or estimate.args.cache_bytes is not None:
        return None
    while parallel.gpus * 2 <= estimate.max_gpus:
        parallel = _doubled(parallel)
        if replace(estimate, args=replace(estimate.args, parallel=parallel)).fits:
            return parallel.gpus
    return None


def _doubled(parallel: Parallel) -> Parallel:
    if parallel.data > 1 or parallel.experts:
        return replace(parallel, data=parallel.data * 2)
    return replace(parallel, tensor=parallel.tensor * 2)


def _gpus(count: int) -> str:
    return "the GPU" if count == 1 else f"each of {count} GPUs"


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
