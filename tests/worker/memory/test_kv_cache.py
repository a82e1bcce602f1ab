"""The layout of the KV cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bouchet_core.config.catalog import Parallel
from bouchet_worker.memory.architecture import parse_architecture
from bouchet_worker.memory.kv_cache import kv_cache_pool
from bouchet_worker.memory.vllm_args import VllmArgs

from .model_configs import CONFIGS

ARGS = VllmArgs(window=8192, parallel=Parallel())

# model, GPUs, bytes of a value, bytes of one token on each GPU
TOKENS = [
    ("Qwen3-32B", 1, None, 64 * 8 * 128 * 2 * 2),
    ("Qwen3-32B", 8, None, 64 * 1 * 128 * 2 * 2),
    # more GPUs than heads: each head is kept twice
    ("Qwen3-32B", 16, None, 64 * 1 * 128 * 2 * 2),
    ("Qwen3-32B", 1, 1, 64 * 8 * 128 * 2),
    # one latent vector of 512 + 64 values, replicated on every GPU
    ("DeepSeek-V3", 1, None, 61 * 576 * 2),
    ("DeepSeek-V3", 8, None, 61 * 576 * 2),
    # and the keys of its indexer: 128 of 8 bits, and a scale
    ("GLM-5.1-FP8", 8, None, 78 * (576 * 2 + 132)),
    ("GLM-5.1-FP8", 8, 1, 78 * (656 + 132)),
    # every fourth layer keeps tokens
    ("Qwen3-Coder-Next-FP8", 1, None, 12 * 2 * 256 * 2 * 2),
    ("Qwen3.8-27B-FP8", 2, 1, 16 * 2 * 256 * 2),
    # every second layer keeps all tokens, every sixth
    ("gpt-oss-120b", 1, None, 18 * 8 * 64 * 2 * 2),
    ("gemma-3-27b", 1, None, 10 * 16 * 128 * 2 * 2),
]


@pytest.mark.parametrize(("name", "gpus", "value_bytes", "expected"), TOKENS)
def test_pool_token_bytes_follow_attention_kind(name: str, gpus: int, value_bytes: int | None, expected: int) -> None:
    args = replace(ARGS, parallel=Parallel(tensor=gpus), cache_value_bytes=value_bytes)
    pool = kv_cache_pool(parse_architecture(CONFIGS[name]), args)
    assert pool is not None and pool.token_bytes == expected


@pytest.mark.parametrize(("prefix_caching", "state_blocks"), [(True, 6), (False, 3)])
def test_pool_of_hybrid_model_has_blocks_as_large_as_state(prefix_caching: bool, state_blocks: int) -> None:
    architecture = parse_architecture(CONFIGS["Qwen3-Coder-Next-FP8"])
    pool = kv_cache_pool(architecture, replace(ARGS, prefix_caching=prefix_caching))
    # "Setting attention block size to 544 tokens to ensure that attention page size is >= mamba page size"
    assert pool is not None and (pool.block_tokens, pool.state_blocks) == (544, state_blocks)


def test_pool_splits_layers_over_pipeline_stages() -> None:
    pool = kv_cache_pool(parse_architecture(CONFIGS["Qwen3-32B"]), replace(ARGS, parallel=Parallel(pipeline=2)))
    assert pool is not None and pool.token_bytes == 32 * 8 * 128 * 2 * 2


def test_pool_with_overridden_config_is_unknown() -> None:
    assert kv_cache_pool(parse_architecture(CONFIGS["Qwen3-32B"]), replace(ARGS, overridden=True)) is None
