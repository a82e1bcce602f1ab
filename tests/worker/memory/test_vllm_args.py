"""Arguments of vLLM that decide about memory."""

from __future__ import annotations

import pytest
from bouchet_core.config.catalog import Parallel
from bouchet_worker.memory.vllm_args import GIB, VllmArgs, parse_vllm_args


def parse(*arguments: str, cpu: bool = False, **env: str) -> VllmArgs:
    return parse_vllm_args(arguments, env, 8192, Parallel(), cpu=cpu)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (("--gpu-memory-utilization", "0.8"), "utilization", 0.8),
        (("--gpu_memory_utilization=0.8",), "utilization", 0.8),
        (("--max-num-seqs=64",), "max_sequences", 64),
        (("--max-num-batched-tokens", "16k"), "batch_tokens", 16_000),
        (("--max-model-len", "4096", "--max-model-len=32K"), "window", 32_768),
        (("--kv-cache-dtype", "fp8_e4m3"), "cache_value_bytes", 1),
        (("--kv-cache-dtype", "auto"), "cache_value_bytes", None),
        (("--kv-cache-memory-bytes=4G",), "cache_bytes", 4 * GIB),
        (("--quantization", "fp8"), "fp8", True),
        (("--quantization", "awq"), "fp8", False),
        (("--hf-overrides", "{}"), "overridden", True),
        (("--kv-cache-dtype", "nvfp4"), "overridden", True),
        ((), "utilization", 0.92),
        ((), "window", 8192),
    ],
)
def test_parse_vllm_args_reads_option_as_vllm_does(arguments: tuple[str, ...], field: str, value: object) -> None:
    assert getattr(parse(*arguments), field) == value


@pytest.mark.parametrize(("cpu", "gib", "cache_bytes"), [(True, "2", 2 * GIB), (True, "0", None), (False, "2", None)])
def test_parse_vllm_args_reads_cache_size_of_cpu_from_environment(cpu: bool, gib: str, cache_bytes: int | None) -> None:
    assert parse(cpu=cpu, VLLM_CPU_KVCACHE_SPACE=gib).cache_bytes == cache_bytes
