"""Weights on one GPU."""

from __future__ import annotations

import pytest
from bouchet_core.config.catalog import Parallel
from bouchet_worker.memory.architecture import parse_architecture
from bouchet_worker.memory.weights import TensorGroup, least_weights_per_gpu, weights_per_gpu

from .model_configs import CONFIGS


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [(Parallel(data=8, experts=True), 180), (Parallel(tensor=8), 110), (Parallel(tensor=4, pipeline=2), 110)],
)
def test_weights_per_gpu_shares_experts_over_copies(parallel: Parallel, expected: float) -> None:
    architecture = parse_architecture(CONFIGS["Qwen3-Coder-480B-A35B-Instruct-FP8"])
    experts = TensorGroup("model.layers.*.mlp.experts.*.up_proj.weight", "F8_E4M3", 2, 800)
    rest = TensorGroup("model.layers.*.mlp.shared_experts.up_proj.weight", "F8_E4M3", 2, 80)
    assert weights_per_gpu([experts, rest], architecture, parallel, fp8=False) == expected


@pytest.mark.parametrize(
    ("name", "kind", "rank", "loaded"),
    [
        ("model.layers.*.mlp.up_proj.weight", "BF16", 2, 50),
        ("model.layers.*.mlp.experts.*.up_proj.weight", "F32", 2, 25),
        ("model.embed_tokens.weight", "BF16", 2, 100),
        ("model.layers.*.mlp.gate.weight", "BF16", 2, 100),
        ("model.layers.*.input_layernorm.weight", "BF16", 1, 100),
        ("mtp.layers.*.mlp.up_proj.weight", "BF16", 2, 0),
        ("model.layers.+.mlp.up_proj.weight", "BF16", 2, 0),
        ("model.visual.blocks.*.mlp.fc1.weight", "BF16", 2, 100),
    ],
)
def test_weights_per_gpu_with_fp8_quantises_linear_layers(name: str, kind: str, rank: int, loaded: float) -> None:
    architecture = parse_architecture(CONFIGS["Qwen3-32B"])
    assert weights_per_gpu([TensorGroup(name, kind, rank, 100)], architecture, Parallel(), fp8=True) == loaded


@pytest.mark.parametrize(
    ("name", "gpus", "expected"), [("k_proj", 4, 40), ("k_proj", 16, 20), ("kv_a_proj_with_mqa", 16, 160)]
)
def test_weights_per_gpu_replicates_what_heads_do_not_divide(name: str, gpus: int, expected: float) -> None:
    tensors = TensorGroup(f"model.layers.*.self_attn.{name}.weight", "BF16", 2, 160)
    architecture = parse_architecture(CONFIGS["Qwen3-32B"])
    assert weights_per_gpu([tensors], architecture, Parallel(tensor=gpus), fp8=False) == expected


@pytest.mark.parametrize(
    ("size", "parallel", "fp8", "expected"),
    [
        (200, Parallel(), True, 100),
        (450, Parallel(data=8, experts=True), False, 56.25),
        (450, Parallel(data=8), False, 450),
        (200, Parallel(tensor=2, pipeline=2), False, 50),
    ],
)
def test_least_weights_per_gpu_is_smallest_possible_share(
    size: float, parallel: Parallel, fp8: bool, expected: float
) -> None:
    assert least_weights_per_gpu(size, parallel, fp8=fp8, experts=parallel.experts) == expected
