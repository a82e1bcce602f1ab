"""vLLM's arguments that decide about memory, read back from its command line and environment. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bouchet_core.config.catalog import Parallel

# vLLM's defaults: 0.92 since its share of GPU memory includes CUDA graphs; batch and sequences as on large GPUs
GPU_MEMORY_UTILIZATION = 0.92
BATCH_TOKENS = 8192
MAX_SEQUENCES = 1024
GIB = 1 << 30
# these change the model's dimensions, so that its config.json no longer describes it
_OVERRIDES = ("--hf-overrides", "--rope-scaling", "--config", "--kv-transfer-config")
_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class VllmArgs:
    """The arguments as vLLM applies them."""

    # tokens
    window: int
    parallel: Parallel
    # of the GPU's memory
    utilization: float = GPU_MEMORY_UTILIZATION
    batch_tokens: int = BATCH_TOKENS
    max_sequences: int = MAX_SEQUENCES
    # bytes of one value in the KV cache, None for the model's own type
    cache_value_bytes: int | None = None
    # a KV cache of a fixed size
    cache_bytes: int | None = None
    # quantise the weights while loading
    fp8: bool = False
    eager: bool = False
    prefix_caching: bool = True
    # the model's config.json no longer describes it
    overridden: bool = False
    # a window beyond the model's own is allowed
    long_window_allowed: bool = False
    cpu: bool = False


def parse_vllm_args(
    arguments: Sequence[str], env: Mapping[str, str], window: int, parallel: Parallel, *, cpu: bool
) -> VllmArgs:
    """Return what the arguments and environment of `vllm serve` set. window: where they do not set one."""
    options = _Options(arguments)
    cache_type = options.value("--kv-cache-dtype") or "auto"
    cache_bytes = options.number("--kv-cache-memory-bytes") or options.number("--kv-cache-memory")
    if cpu and cache_bytes is None and env.get("VLLM_CPU_KVCACHE_SPACE", "").isdigit():
        cache_bytes = int(env["VLLM_CPU_KVCACHE_SPACE"]) * GIB or None
    unknown_type = not (cache_type in ("auto", "bfloat16", "float16") or cache_type.startswith("fp8"))
    return VllmArgs(
        window=options.number("--max-model-len") or window,
        parallel=parallel,
        utilization=options.fraction("--gpu-memory-utilization") or GPU_MEMORY_UTILIZATION,
        batch_tokens=options.number("--max-num-batched-tokens") or BATCH_TOKENS,
        max_sequences=options.number("--max-num-seqs") or MAX_SEQUENCES,
        cache_value_bytes={"auto": None, "bfloat16": 2, "float16": 2}.get(cache_type, 1),
        cache_bytes=cache_bytes,
        fp8=(options.value("--quantization", "-q") or "") == "fp8",
        eager=options.has("--enforce-eager"),
        prefix_caching=not options.has("--no-enable-prefix-caching"),
        overridden=unknown_type or any(options.has(name) for name in _OVERRIDES),
        long_window_allowed=env.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") not in ("", "0", "false", "False"),
        cpu=cpu,
    )


class _Options:
    """Options as vLLM's parser reads them: `--a-b 1`, `--a-b=1`, `--a_b=1`; of a repeated one the last counts."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._values: dict[str, str] = {}
        for at, argument in enumerate(arguments):
            if argument.startswith("-"):
                name, equals, value = argument.partition("=")
                following = arguments[at + 1] if at + 1 < len(arguments) else ""
                self._values[name.replace("_", "-")] = value if equals else following

    def has(self, name: str) -> bool:
        """Return whether the option was given."""
        return name in self._values

    def value(self, *names: str) -> str | None:
        """Return the value of the first of these options that was given."""
        return next((self._values[name] for name in names if name in self._values), None)

    def number(self, name: str) -> int | None:
        """Return a whole number, also from `32k` and `4G`; None without one."""
        found = re.fullmatch(r"(\d+)([kmgKMG]?)", self._values.get(name, ""))
        return int(found[1]) * _SUFFIXES.get(found[2], 1) if found else None

    def fraction(self, name: str) -> float | None:
        """Return a decimal number, None without one."""
        try:
            return float(self._values[name])
        except (KeyError, ValueError):
            return None
