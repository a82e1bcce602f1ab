"""Which launches fit, and what is suggested for the others. What is not known refuses nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bouchet_core.config.catalog import Parallel
from bouchet_core.deployments import MemoryEstimate
from bouchet_core.errors import LaunchRefusedError
from bouchet_worker.memory.architecture import parse_architecture
from bouchet_worker.memory.estimate import ModelDescription, estimate_memory
from bouchet_worker.memory.vllm_args import GIB, VllmArgs, parse_vllm_args
from bouchet_worker.memory.weights import TensorGroup

from .model_configs import CONFIGS

H200 = 139.8
ONE_GPU = Parallel()
LARGE = "Qwen3-Coder-480B-A35B-Instruct-FP8"


def parse(*arguments: str, window: int = 8192, parallel: Parallel = ONE_GPU, cpu: bool = False, **env: str) -> VllmArgs:
    return parse_vllm_args(arguments, env, window, parallel, cpu=cpu)


def model(name: str, gib: float | None) -> ModelDescription:
    return ModelDescription(name, parse_architecture(CONFIGS[name]), catalog_gib=gib, source="a test")


def linear_layers(name: str, kind: str, size: float) -> ModelDescription:
    """Return a model whose weights are one group of linear layers."""
    tensors = (TensorGroup("model.layers.*.mlp.up_proj.weight", kind, 2, int(size * GIB)),)
    return ModelDescription(name, parse_architecture(CONFIGS[name]), tensors)


def refusal(
    model: ModelDescription, args: VllmArgs, gpu_gib: float | None = H200, host_gib: float | None = None, **more: int
) -> str:
    with pytest.raises(LaunchRefusedError) as caught:
        estimate_memory(model, args, gpu_gib, host_gib, **more)
    return str(caught.value)


def suggested(message: str) -> list[str]:
    """Return the options at the end of a refusal."""
    return message.partition("; it fits with ")[2].split(" or ")


@pytest.mark.parametrize(("kind", "window"), [("no_such_type", 10), ("", 100_000_000)])
def test_estimate_of_unknown_architecture_checks_nothing(kind: str, window: int) -> None:
    config = {"model_type": kind, "num_hidden_layers": 8, "num_attention_heads": 8, "hidden_size": 64} if kind else {}
    described = ModelDescription("m", parse_architecture(config), catalog_gib=10)
    found = estimate_memory(described, parse(window=window), H200)
    assert found.token_bytes is None and found.conversations is None and "not checked" in found.note


def test_estimate_leaves_quantised_weights_as_they_are() -> None:
    found = estimate_memory(linear_layers("Qwen3.8-27B-FP8", "BF16", 1), parse("--quantization", "fp8"), H200)
    assert found.weights_gib == 1


def test_estimate_that_fits_counts_conversations() -> None:
    found = estimate_memory(model("Qwen3-Coder-Next-FP8", 75), parse(window=262_144), H200)
    assert found.conversations is not None and found.conversations > 5
    assert found.note == f"about {found.conversations:.1f} conversations of the full window fit at once"
    assert found.longest == 262_144 and found.window_gib is not None and found.cache_gib is not None


def test_estimate_adds_up_copies() -> None:
    one = estimate_memory(model("Qwen3-32B", 61), parse(window=40960), H200)
    two = estimate_memory(model("Qwen3-32B", 61), parse(window=40960, parallel=Parallel(data=2)), H200)
    assert one.conversations and two.conversations and two.conversations > 1.8 * one.conversations


def test_estimate_counts_no_more_conversations_than_sequences() -> None:
    found = estimate_memory(model("Qwen3-32B", 61), parse("--max-num-seqs", "2", window=256), H200)
    assert found.conversations == 2


def test_estimate_with_large_weights_is_refused_with_options() -> None:
    message = refusal(model("Qwen2.5-72B-Instruct", 136), parse())
    assert suggested(message) == ["--quant fp8", "--gpus 2"]


def test_estimate_suggests_no_more_gpus_than_site_has() -> None:
    assert suggested(refusal(model("Qwen2.5-72B-Instruct", 136), parse(), max_gpus=1)) == ["--quant fp8"]
    assert suggested(refusal(ModelDescription("m", catalog_gib=900), parse(), max_gpus=2)) == [""]


@pytest.mark.parametrize("change", [{"fp8": True}, {"parallel": Parallel(tensor=2)}])
def test_estimate_with_suggested_option_fits(change: dict[str, Any]) -> None:
    found = estimate_memory(model("Qwen2.5-72B-Instruct", 136), replace(parse(), **change), H200)
    assert found.conversations is not None and found.conversations > 1


def test_estimate_with_long_window_is_refused_with_window_that_fits() -> None:
    args = parse(window=262_144, parallel=Parallel(data=8, experts=True))
    described = linear_layers(LARGE, "F8_E4M3", 67.5)
    options = suggested(refusal(described, args, 135.0))
    assert "--kv-cache-dtype fp8" in options and "--quant fp8" not in options
    shorter = next(int(option.split()[1]) for option in options if option.startswith("--max-len"))
    assert estimate_memory(described, replace(args, window=shorter), 135.0)


def test_estimate_with_window_beyond_config_is_refused() -> None:
    assert "--max-len 40960 or less" in refusal(model("Qwen3-32B", 61), parse(window=40961))


@pytest.mark.parametrize(
    "args",
    [
        parse(window=40961, VLLM_ALLOW_LONG_MAX_MODEL_LEN="1"),
        parse("--hf-overrides", "{}", window=40961),
    ],
)
def test_estimate_allows_window_beyond_config_when_vllm_does(args: VllmArgs) -> None:
    assert estimate_memory(model("Qwen3-32B", 61), args, H200).window == 40961


def test_estimate_within_error_refuses_nothing() -> None:
    described = linear_layers("Qwen3-32B", "BF16", 120)
    assert "just fit" in estimate_memory(described, parse(window=16_384), H200).note
    assert refusal(described, parse(window=40_960))


@pytest.mark.parametrize(
    ("described", "gpu_gib", "note"),
    [
        (model("Qwen2.5-72B-Instruct", 136), None, "gpu_memory_gib"),
        (model("Qwen2.5-72B-Instruct", None), H200, "size of its weights"),
        (ModelDescription("m"), None, "not checked: the model's config.json could not be read"),
        (ModelDescription("m", catalog_gib=75), H200, "weights fit"),
    ],
)
def test_estimate_with_missing_facts_notes_what_was_not_checked(
    described: ModelDescription, gpu_gib: float | None, note: str
) -> None:
    found = estimate_memory(described, parse(), gpu_gib)
    assert note in found.note and found.conversations is None


def test_estimate_uses_catalog_size_without_model_files() -> None:
    assert suggested(refusal(ModelDescription("m", catalog_gib=200), parse())) == ["--gpus 2"]
    copies = parse(parallel=Parallel(data=8, experts=True))
    assert estimate_memory(ModelDescription("m", catalog_gib=450), copies, H200).weights_gib == 56.25
    fp8 = parse("--quantization", "fp8")
    assert estimate_memory(ModelDescription("m", catalog_gib=200), fp8, H200).weights_gib == 100


def test_estimate_on_cpu_uses_fixed_cache_and_host_memory() -> None:
    args = parse("--kv-cache-memory-bytes=268435456", cpu=True)
    found = estimate_memory(model("SmolLM2-135M", 0.3), args, None, 6)
    assert found.conversations == pytest.approx(1.42, abs=0.01)
    small = parse("--kv-cache-memory-bytes=134217728", cpu=True)
    assert suggested(refusal(model("SmolLM2-135M", 0.3), small, None, 6)) == ["--max-len 5000"]
    assert "6 GiB" in refusal(model("SmolLM2-135M", 9), args, None, 6)


def test_estimate_survives_json_round_trip() -> None:
    found = estimate_memory(model("Qwen3-32B", 61), parse(window=40960), H200)
    assert MemoryEstimate.model_validate_json(found.model_dump_json()) == found
