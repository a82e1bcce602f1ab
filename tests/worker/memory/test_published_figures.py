"""The estimate compared with vLLM's own numbers: logs of the demo cluster, and figures that others published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bouchet_core.config.catalog import Parallel
from bouchet_worker.memory.architecture import parse_architecture
from bouchet_worker.memory.estimate import LaunchEstimate, ModelDescription
from bouchet_worker.memory.kv_cache import KvCachePool, kv_cache_pool
from bouchet_worker.memory.vllm_args import GIB, VllmArgs
from bouchet_worker.memory.weights import TensorGroup, weights_per_gpu

from .model_configs import CONFIGS

ARGS = VllmArgs(window=8192, parallel=Parallel())
TOLERANCE = 0.02


def pool(model: str, tensor: int = 1, **changes: Any) -> KvCachePool:
    found = kv_cache_pool(
        parse_architecture(CONFIGS[model]), replace(ARGS, parallel=Parallel(tensor=tensor), **changes)
    )
    assert found is not None
    return found


# model, GPUs that share it, bytes of a value (0: the model's type), the pool on one GPU, window, tokens that fit in it
REPORTED_TOKENS = [
    # vLLM 0.32.0 for CPUs, the demo cluster's log
    ("SmolLM2-135M", 1, 0, 268435456 / GIB, 8192, 11_648),
    # github.com/mitchross/talos-argocd-proxmox/pull/1995: 2 x RTX 3090
    ("Qwen3.8-27B-FP8", 2, 1, 4.99, 131_072, 302_921),
    # github.com/vllm-project/vllm/issues/21348: 4 x H100
    ("Qwen3-235B-A22B-FP8", 4, 0, 8.11, 40_960, 178_880),
    # github.com/eugr/spark-vllm-docker/issues/396: 2 x GB10
    ("MiniMax-M2.7", 2, 0, 28.74, 196_608, 240_816),
    # vLLM 0.32.0's own arithmetic over the whole model on torch's meta device, 8192 tokens in flight
    ("Qwen3-32B", 1, 0, 40, 40_960, 163_840),
    ("Qwen3-32B", 16, 0, 40, 40_960, 1_310_720),
    ("Qwen2.5-72B-Instruct", 4, 0, 40, 32_768, 524_288),
    ("MiniMax-M2.7", 4, 0, 40, 196_608, 676_496),
    ("gpt-oss-120b", 1, 0, 40, 131_072, 1_095_264),
    ("gemma-3-27b", 2, 0, 40, 131_072, 736_701),
    ("DeepSeek-V3", 8, 0, 40, 163_840, 611_184),
    ("GLM-4.7-FP8", 4, 0, 40, 202_752, 455_888),
    ("Qwen3-Coder-Next-FP8", 1, 0, 40, 262_144, 1_725_423),
    ("Qwen3-Coder-Next-FP8", 2, 0, 40, 262_144, 3_451_383),
    ("Qwen3-Coder-480B-A35B-Instruct-FP8", 8, 0, 40, 262_144, 1_352_992),
]


@pytest.mark.parametrize(("model", "tensor", "value", "pool_gib", "window", "reported"), REPORTED_TOKENS)
def test_pool_conversations_match_reported_tokens(
    model: str, tensor: int, value: int, pool_gib: float, window: int, reported: int
) -> None:
    # two steps are in flight at a time
    cache = pool(model, tensor, cache_value_bytes=value or None, batch_tokens=4096)
    assert cache.conversations(pool_gib * GIB, window) * window == pytest.approx(reported, rel=TOLERANCE)


# model, GPUs, window, GiB of cache that vLLM needed for one such conversation
REPORTED_NEED = [
    # github.com/vllm-project/recipes/pull/12: 8 GPUs with 141 GB, data parallel
    ("Qwen3-Coder-480B-A35B-Instruct-FP8", 1, 262_144, 62.00),
    # github.com/eugr/spark-vllm-docker/issues/396
    ("MiniMax-M2.7", 2, 196_608, 23.25),
]


@pytest.mark.parametrize(("model", "tensor", "window", "needed"), REPORTED_NEED)
def test_pool_bytes_match_reported_need(model: str, tensor: int, window: int, needed: float) -> None:
    assert pool(model, tensor).bytes_of(window) / GIB == pytest.approx(needed, abs=0.01)


# model, GPUs, GiB of cache that were left, the longest window that vLLM then suggested
REPORTED_LONGEST = [
    ("Qwen3-Coder-480B-A35B-Instruct-FP8", 1, 48.66, 205_728),
    ("Qwen3-Coder-480B-A35B-Instruct-FP8", 1, 55.65, 235_296),
    ("MiniMax-M2.7", 2, 22.5, 190_272),
]


@pytest.mark.parametrize(("model", "tensor", "left", "suggested"), REPORTED_LONGEST)
def test_pool_longest_window_matches_reported_maximum(model: str, tensor: int, left: float, suggested: int) -> None:
    assert pool(model, tensor).longest_window(left * GIB, 262_144) == suggested // 1000 * 1000


# model, GPUs, bytes of a value, tokens of a block: from "Setting attention block size to N tokens"
REPORTED_BLOCKS = [
    # github.com/noonghunna/club-3090/issues/1047 and mitchross/talos-argocd-proxmox/pull/1995
    ("Qwen3.8-27B-FP8", 1, 1, 1568),
    ("Qwen3.8-27B-FP8", 2, 1, 1568),
    # vLLM 0.32.0's own arithmetic
    ("Qwen3-Coder-Next-FP8", 1, 2, 544),
]


@pytest.mark.parametrize(("model", "tensor", "value", "tokens"), REPORTED_BLOCKS)
def test_pool_block_tokens_match_reported_block_size(model: str, tensor: int, value: int, tokens: int) -> None:
    assert pool(model, tensor, cache_value_bytes=value).block_tokens == tokens


def dense(config: dict[str, Any], inner: str = "BF16") -> list[TensorGroup]:
    """Return the tensors of a plain transformer with that config; linear layers have the type `inner`."""
    layers, hidden, wide = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
    size = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, key = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    each = {"q_proj": query, "o_proj": query, "k_proj": key, "v_proj": key,
            "gate_proj": wide, "up_proj": wide, "down_proj": wide}  # fmt: skip
    bytes_of = {"BF16": 2, "I8": 1, "F8_E4M3": 1}[inner]
    rows = [
        TensorGroup(f"model.layers.*.{name}.weight", inner, 2, layers * hidden * n * bytes_of)
        for name, n in each.items()
    ]
    ends = [TensorGroup("model.embed_tokens.weight", "BF16", 2, config["vocab_size"] * hidden * 2)]
    if not config.get("tie_word_embeddings"):
        ends.append(TensorGroup("lm_head.weight", "BF16", 2, config["vocab_size"] * hidden * 2))
    return [*rows, *ends, TensorGroup("model.layers.*.input_layernorm.weight", "BF16", 1, layers * hidden * 4)]


LLAMA = {"model_type": "llama", "head_dim": 128, "num_key_value_heads": 8, "torch_dtype": "bfloat16"}
LLAMA_8B = {
    **LLAMA, "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "vocab_size": 128256,
}  # fmt: skip
LLAMA_70B = {
    **LLAMA, "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672,
    "num_attention_heads": 64, "vocab_size": 128256,
}  # fmt: skip
QWEN_14B = {
    "model_type": "qwen2", "num_hidden_layers": 48, "hidden_size": 5120, "intermediate_size": 13824,
    "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064, "torch_dtype": "bfloat16",
}  # fmt: skip
GPT_OSS = CONFIGS["gpt-oss-120b"]
_EXPERT_VALUES = 36 * 128 * 3 * 2880 * 2880
GPT_OSS_TENSORS = [
    TensorGroup("model.layers.*.mlp.experts.gate_up_proj_blocks", "U8", 4, _EXPERT_VALUES // 3),
    TensorGroup("model.layers.*.mlp.experts.down_proj_blocks", "U8", 4, _EXPERT_VALUES // 6),
    TensorGroup("model.layers.*.mlp.experts.gate_up_proj_scales", "U8", 3, _EXPERT_VALUES * 2 // 3 // 32),
    TensorGroup("model.layers.*.mlp.experts.down_proj_scales", "U8", 3, _EXPERT_VALUES // 3 // 32),
    TensorGroup("model.layers.*.self_attn.q_proj.weight", "BF16", 2, 36 * 2880 * 64 * 64 * 2),
    TensorGroup("model.layers.*.self_attn.o_proj.weight", "BF16", 2, 36 * 2880 * 64 * 64 * 2),
    TensorGroup("model.layers.*.self_attn.k_proj.weight", "BF16", 2, 36 * 2880 * 8 * 64 * 2),
    TensorGroup("model.layers.*.self_attn.v_proj.weight", "BF16", 2, 36 * 2880 * 8 * 64 * 2),
    TensorGroup("model.embed_tokens.weight", "BF16", 2, 201088 * 2880 * 2),
    TensorGroup("lm_head.weight", "BF16", 2, 201088 * 2880 * 2),
]

DEEPSEEK = {**CONFIGS["DeepSeek-V3"], "quantization_config": None}
_LATENT_VALUES = {"q_a_proj": 7168 * 1536, "kv_a_proj_with_mqa": 7168 * 576, "q_b_proj": 1536 * 128 * 192,
                  "kv_b_proj": 512 * 128 * 256, "o_proj": 128 * 128 * 7168}  # fmt: skip
DEEPSEEK_TENSORS = [
    *(
        TensorGroup(f"model.layers.*.self_attn.{name}.weight", "BF16", 2, 61 * n * 2)
        for name, n in _LATENT_VALUES.items()
    ),
    TensorGroup("model.layers.*.mlp.experts.*.up_proj.weight", "BF16", 2, 58 * 256 * 3 * 7168 * 2048 * 2),
    TensorGroup("model.layers.*.mlp.shared_experts.up_proj.weight", "BF16", 2, 58 * 3 * 7168 * 2048 * 2),
    TensorGroup("model.layers.*.mlp.up_proj.weight", "BF16", 2, 3 * 3 * 7168 * 18432 * 2),
    TensorGroup("model.layers.*.mlp.gate.weight", "BF16", 2, 58 * 256 * 7168 * 2),
    TensorGroup("model.embed_tokens.weight", "BF16", 2, 129280 * 7168 * 2),
    TensorGroup("lm_head.weight", "BF16", 2, 129280 * 7168 * 2),
]

# config, tensors, GPUs, quantised while loading, "Model loading took N GiB" (or "weights took") on each
REPORTED_WEIGHTS = [
    # github.com/vllm-project/vllm/issues/10517
    (LLAMA_8B, dense(LLAMA_8B), 1, False, 14.9888),
    # github.com/vllm-project/vllm/issues/13061: DeepSeek-R1-Distill-Qwen-14B
    (QWEN_14B, dense(QWEN_14B), 2, False, 13.9476),
    # github.com/vllm-project/vllm/pull/12569: linear layers in 8 bits
    (LLAMA_70B, dense(LLAMA_70B, "I8"), 1, False, 67.7229),
    # the same sizes for 16-bit weights that are quantised while loading
    (LLAMA_70B, dense(LLAMA_70B), 1, True, 67.7229),
    # github.com/vllm-project/vllm/issues/33155, kernels of Triton; those of Marlin took 65.97 (issue 23278)
    (GPT_OSS, GPT_OSS_TENSORS, 1, False, 64.38),
    # vLLM 0.32.0's own parameters on torch's meta device, in 16 bits; with 16 GPUs each key head is on two
    (CONFIGS["Qwen3-32B"], dense(CONFIGS["Qwen3-32B"]), 1, False, 61.024),
    (CONFIGS["Qwen3-32B"], dense(CONFIGS["Qwen3-32B"]), 16, False, 3.893),
    (CONFIGS["Qwen2.5-72B-Instruct"], dense(CONFIGS["Qwen2.5-72B-Instruct"]), 4, False, 33.858),
    (DEEPSEEK, DEEPSEEK_TENSORS, 8, False, 157.916),
]


@pytest.mark.parametrize(("config", "tensors", "gpus", "fp8", "reported"), REPORTED_WEIGHTS)
def test_weights_per_gpu_match_reported_memory(
    config: dict[str, Any], tensors: list[TensorGroup], gpus: int, fp8: bool, reported: float
) -> None:
    found = weights_per_gpu(tensors, parse_architecture(config), Parallel(tensor=gpus), fp8=fp8) / GIB
    assert found == pytest.approx(reported, rel=TOLERANCE)


def experts_of_480b() -> list[TensorGroup]:
    """Return the tensors of Qwen3-Coder-480B-A35B-Instruct-FP8: experts, attention, embeddings in 16 bits."""
    shared = 62 * 6144 * 128
    return [
        TensorGroup("model.layers.*.mlp.experts.*.down_proj.weight", "F8_E4M3", 2, 62 * 160 * 3 * 6144 * 2560),
        TensorGroup("model.layers.*.self_attn.q_proj.weight", "F8_E4M3", 2, shared * 96),
        TensorGroup("model.layers.*.self_attn.o_proj.weight", "F8_E4M3", 2, shared * 96),
        TensorGroup("model.layers.*.self_attn.k_proj.weight", "F8_E4M3", 2, shared * 8),
        TensorGroup("model.layers.*.self_attn.v_proj.weight", "F8_E4M3", 2, shared * 8),
        TensorGroup("model.embed_tokens.weight", "BF16", 2, 151936 * 6144 * 2),
        TensorGroup("lm_head.weight", "BF16", 2, 151936 * 6144 * 2),
    ]


# share of the GPU, GiB that vLLM found left for the cache: github.com/vllm-project/recipes/pull/12, 8 x 141 GB
@pytest.mark.parametrize(("share", "left"), [(0.9, 48.66), (0.95, 55.65)])
def test_cache_of_expert_parallel_model_matches_reported_memory(share: float, left: float) -> None:
    name = "Qwen3-Coder-480B-A35B-Instruct-FP8"
    model = ModelDescription(name, parse_architecture(CONFIGS[name]), experts_of_480b())
    asked = replace(ARGS, parallel=Parallel(data=8, experts=True), utilization=share)
    assert LaunchEstimate(model, asked, 139.8).cache_gib == pytest.approx(left, rel=0.1)
