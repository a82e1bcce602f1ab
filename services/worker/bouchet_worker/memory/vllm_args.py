"""What vLLM is told about memory: the arguments that it will be given, read back. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bouchet_core.parallel import Parallel

# vLLM's own defaults: 0.92 since its share counts CUDA graphs; batch and conversations are those of GPUs this large
SHARE = 0.92
BATCH_TOKENS = 8192
SEQUENCES = 1024
GIB = 1 << 30
# these change the model's own numbers, so that its config.json says nothing any more
_OVERRIDES = ("--hf-overrides", "--rope-scaling", "--config", "--kv-transfer-config")
_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Asked:
    """cache_bytes: of one value in the KV cache, None is the model's own type. pool_bytes: a cache of a named size."""

    window: int
    parallel: Parallel
    share: float = SHARE
    batch_tokens: int = BATCH_TOKENS
    sequences: int = SEQUENCES
    cache_bytes: int | None = None
    pool_bytes: int | None = None
    fp8: bool = False
    eager: bool = False
    prefix_caching: bool = True
    overridden: bool = False
    long_allowed: bool = False
    cpu: bool = False


def asked_of(arguments: Sequence[str], env: Mapping[str, str], window: int, parallel: Parallel, *, cpu: bool) -> Asked:
    """What those arguments and that environment of `vllm serve` ask for; of a word given twice, the last counts."""
    words = _Words(arguments)
    cache_type = words.value("--kv-cache-dtype") or "auto"
    pool = words.number("--kv-cache-memory-bytes") or words.number("--kv-cache-memory")
    if cpu and pool is None and env.get("VLLM_CPU_KVCACHE_SPACE", "").isdigit():
        pool = int(env["VLLM_CPU_KVCACHE_SPACE"]) * GIB or None
    odd_cache = not (cache_type in ("auto", "bfloat16", "float16") or cache_type.startswith("fp8"))
    return Asked(
        window=words.number("--max-model-len") or window,
        parallel=parallel,
        share=words.fraction("--gpu-memory-utilization") or SHARE,
        batch_tokens=words.number("--max-num-batched-tokens") or BATCH_TOKENS,
        sequences=words.number("--max-num-seqs") or SEQUENCES,
        cache_bytes={"auto": None, "bfloat16": 2, "float16": 2}.get(cache_type, 1),
        pool_bytes=pool,
        fp8=(words.value("--quantization", "-q") or "") == "fp8",
        eager=words.has("--enforce-eager"),
        prefix_caching=not words.has("--no-enable-prefix-caching"),
        overridden=odd_cache or any(words.has(name) for name in _OVERRIDES),
        long_allowed=env.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") not in ("", "0", "false", "False"),
        cpu=cpu,
    )


class _Words:
    """Arguments as vLLM's parser reads them: `--a-b 1`, `--a-b=1`, `--a_b=1`."""

    def __init__(self, words: Sequence[str]) -> None:
        self._values: dict[str, str] = {}
        for at, word in enumerate(words):
            if word.startswith("-"):
                name, found, value = word.partition("=")
                following = words[at + 1] if at + 1 < len(words) else ""
                self._values[name.replace("_", "-")] = value if found else following

    def has(self, name: str) -> bool:
        return name in self._values

    def value(self, *names: str) -> str | None:
        return next((self._values[name] for name in names if name in self._values), None)

    def number(self, name: str) -> int | None:
        """A whole number, `32k` and `4G` too; None where there is none."""
        found = re.fullmatch(r"(\d+)([kmgKMG]?)", self._values.get(name, ""))
        return int(found[1]) * _SUFFIXES.get(found[2], 1) if found else None

    def fraction(self, name: str) -> float | None:
        try:
            return float(self._values[name])
        except (KeyError, ValueError):
            return None
