"""What fits on GPUs and what is said when it does not: nothing is refused that is not known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bouchet_core.deployments import MemoryEstimate
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.config.parallel import Parallel
from bouchet_worker.memory.architecture import parse_architecture, parse_longest_window
from bouchet_worker.memory.estimate import ModelDescription, estimate_memory
from bouchet_worker.memory.kv_cache import kv_cache_pool
from bouchet_worker.memory.vllm_args import GIB, VllmArgs, parse_vllm_args
from bouchet_worker.memory.weights import TensorGroup, weights_per_gpu

from .model_configs import CONFIGS

ONE = Parallel()
H200 = 139.8


def told(*arguments: str, window: int = 8192, parallel: Parallel = ONE, cpu: bool = False, **env: str) -> VllmArgs:
    return parse_vllm_args(arguments, env, window, parallel, cpu=cpu)


def model(name: str, gib: float | None) -> ModelDescription:
    return ModelDescription(name, parse_architecture(CONFIGS[name]), catalog_gib=gib, source="a test")


def refusal(
    model: ModelDescription, asked: VllmArgs, gpu_gib: float | None = H200, host_gib: float | None = None
) -> str:
    with pytest.raises(LaunchRefusedError) as caught:
        estimate_memory(model, asked, gpu_gib, host_gib)
    return str(caught.value)


# vLLM's arguments


@pytest.mark.parametrize(
    ("words", "field", "value"),
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
    ],
)
def test_arguments_are_read_as_vllm_reads_them(words: tuple[str, ...], field: str, value: object) -> None:
    assert getattr(told(*words), field) == value


def test_the_cache_of_a_cpu_may_be_set_in_the_environment() -> None:
    assert told(cpu=True, VLLM_CPU_KVCACHE_SPACE="2").cache_bytes == 2 * GIB
    assert told(cpu=True, VLLM_CPU_KVCACHE_SPACE="0").cache_bytes is None
    assert told(VLLM_CPU_KVCACHE_SPACE="2").cache_bytes is None


# the model's own words

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"max_position_embeddings": 40960}, 40960),
        ({"text_config": {"max_position_embeddings": 262144}}, 262144),
        ({"max_position_embeddings": 32768, "rope_scaling": YARN}, 131072),
        ({"max_position_embeddings": 131072, "rope_parameters": YARN}, 131072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
        ({"n_positions": 1024}, 1024),
        ({"model_type": "x"}, None),
        (CONFIGS["gemma-3-27b"], 131072),
        (CONFIGS["gpt-oss-120b"], 131072),
    ],
)
def test_the_longest_window(config: dict[str, Any], longest: int | None) -> None:
    assert parse_longest_window(config) == longest


# model, GPUs, bytes of a value, bytes that one token keeps on each GPU
TOKENS = [
    ("Qwen3-32B", 1, None, 64 * 8 * 128 * 2 * 2),
    ("Qwen3-32B", 8, None, 64 * 1 * 128 * 2 * 2),
    # there are no more heads to share: each is kept twice
    ("Qwen3-32B", 16, None, 64 * 1 * 128 * 2 * 2),
    ("Qwen3-32B", 1, 1, 64 * 8 * 128 * 2),
    # one latent vector of 512 + 64 values, the same on every GPU
    ("DeepSeek-V3", 1, None, 61 * 576 * 2),
    ("DeepSeek-V3", 8, None, 61 * 576 * 2),
    # and the keys of its indexer: 128 of 8 bits, and a scale
    ("GLM-5.1-FP8", 8, None, 78 * (576 * 2 + 132)),
    ("GLM-5.1-FP8", 8, 1, 78 * (656 + 132)),
    # every fourth layer keeps tokens
    ("Qwen3-Coder-Next-FP8", 1, None, 12 * 2 * 256 * 2 * 2),
    ("Qwen3.8-27B-FP8", 2, 1, 16 * 2 * 256 * 2),
    # every second keeps all of them, every sixth
    ("gpt-oss-120b", 1, None, 18 * 8 * 64 * 2 * 2),
    ("gemma-3-27b", 1, None, 10 * 16 * 128 * 2 * 2),
]


@pytest.mark.parametrize(("name", "gpus", "value", "expected"), TOKENS)
def test_what_a_token_takes(name: str, gpus: int, value: int | None, expected: int) -> None:
    asked = replace(told(parallel=Parallel(tensor=gpus)), cache_value_bytes=value)
    pool = kv_cache_pool(parse_architecture(CONFIGS[name]), asked)
    assert pool is not None and pool.token_bytes == expected


def test_a_block_of_a_hybrid_model_holds_its_state() -> None:
    pool = kv_cache_pool(parse_architecture(CONFIGS["Qwen3-Coder-Next-FP8"]), told())
    # "Setting attention block size to 544 tokens to ensure that attention page size is >= mamba page size"
    assert pool is not None and pool.block_tokens == 544 and pool.state_blocks == 6
    without = kv_cache_pool(parse_architecture(CONFIGS["Qwen3-Coder-Next-FP8"]), told("--no-enable-prefix-caching"))
    assert without is not None and without.state_blocks == 3


def test_layers_are_shared_out_over_stages() -> None:
    pool = kv_cache_pool(parse_architecture(CONFIGS["Qwen3-32B"]), told(parallel=Parallel(pipeline=2)))
    assert pool is not None and pool.token_bytes == 32 * 8 * 128 * 2 * 2


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "nobody_knows", "num_hidden_layers": 8, "num_attention_heads": 8, "hidden_size": 64},
        {"model_type": "llama4_text", "num_hidden_layers": 8, "max_position_embeddings": 10},
        {"model_type": "mistral", "num_hidden_layers": 8, "num_attention_heads": 8, "hidden_size": 64,
         "sliding_window": 4096},
        {"model_type": "qwen3", "num_hidden_layers": 8, "num_attention_heads": 8, "hidden_size": 64,
         "layer_types": ["full_attention"] * 4 + ["something_new"] * 4},
        {},
    ],
)  # fmt: skip
def test_an_unknown_architecture_is_not_checked(config: dict[str, Any]) -> None:
    found = estimate_memory(
        ModelDescription("m", parse_architecture(config), catalog_gib=10),
        told(window=100_000_000 if not config else 10),
        H200,
    )
    assert found.token_bytes is None and found.conversations is None and "not checked" in found.note


# weights


def test_experts_are_shared_by_copies_and_the_rest_is_not() -> None:
    shape = parse_architecture(CONFIGS["Qwen3-Coder-480B-A35B-Instruct-FP8"])
    experts = TensorGroup("model.layers.*.mlp.experts.*.up_proj.weight", "F8_E4M3", 2, 800)
    rest = TensorGroup("model.layers.*.mlp.shared_experts.up_proj.weight", "F8_E4M3", 2, 80)
    assert weights_per_gpu([experts, rest], shape, Parallel(data=8, experts=True), fp8=False) == 180
    assert weights_per_gpu([experts, rest], shape, Parallel(tensor=8), fp8=False) == 110
    assert weights_per_gpu([experts, rest], shape, Parallel(tensor=4, pipeline=2), fp8=False) == 110


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
def test_what_is_quantised_while_loading(name: str, kind: str, rank: int, loaded: float) -> None:
    assert (
        weights_per_gpu([TensorGroup(name, kind, rank, 100)], parse_architecture(CONFIGS["Qwen3-32B"]), ONE, fp8=True)
        == loaded
    )


def test_what_is_quantised_already_is_left_as_it_is() -> None:
    tensors = (TensorGroup("model.layers.*.mlp.up_proj.weight", "BF16", 2, GIB),)
    shape = parse_architecture(CONFIGS["Qwen3.8-27B-FP8"])
    found = estimate_memory(ModelDescription("m", shape, tensors), told("--quantization", "fp8"), H200)
    assert found.weights_gib == 1


def test_heads_that_do_not_divide_are_kept_twice() -> None:
    shape = parse_architecture(CONFIGS["Qwen3-32B"])
    keys = TensorGroup("model.layers.*.self_attn.k_proj.weight", "BF16", 2, 160)
    latent = TensorGroup("model.layers.*.self_attn.kv_a_proj_with_mqa.weight", "BF16", 2, 160)
    assert weights_per_gpu([keys], shape, Parallel(tensor=4), fp8=False) == 40
    assert weights_per_gpu([keys], shape, Parallel(tensor=16), fp8=False) == 20
    assert weights_per_gpu([latent], shape, Parallel(tensor=16), fp8=False) == 160


# the outcome


def test_what_fits_says_for_how_many() -> None:
    found = estimate_memory(model("Qwen3-Coder-Next-FP8", 75), told(window=262_144), H200)
    assert found.conversations is not None and found.conversations > 5
    assert found.note == f"about {found.conversations:.1f} conversations of the full window fit at once"
    assert found.longest == 262_144 and found.window_gib is not None and found.cache_gib is not None


def test_copies_add_up_and_the_number_of_conversations_has_its_bound() -> None:
    one = estimate_memory(model("Qwen3-32B", 61), told(window=40960), H200)
    two = estimate_memory(model("Qwen3-32B", 61), told(window=40960, parallel=Parallel(data=2)), H200)
    assert one.conversations and two.conversations and two.conversations > 1.8 * one.conversations
    assert estimate_memory(model("Qwen3-32B", 61), told("--max-num-seqs", "2", window=256), H200).conversations == 2


def test_weights_that_do_not_fit() -> None:
    said = refusal(model("Qwen2.5-72B-Instruct", 136), told())
    assert said == (
        "Qwen2.5-72B-Instruct does not fit: its weights take 136.0 GiB on the GPU, where vLLM may use 128.6 GiB "
        "(139.8 x 0.92), and its own work takes about 5.5 GiB; it would with --quant fp8 or --gpus 2"
    )


def test_no_more_gpus_are_suggested_than_there_are() -> None:
    with pytest.raises(LaunchRefusedError, match=r"--quant fp8$"):
        estimate_memory(model("Qwen2.5-72B-Instruct", 136), told(), H200, max_gpus=1)
    with pytest.raises(LaunchRefusedError, match=r"nothing that can be asked for makes it fit$"):
        estimate_memory(ModelDescription("m", catalog_gib=900), told(), H200, max_gpus=2)


@pytest.mark.parametrize("way", [{"fp8": True}, {"parallel": Parallel(tensor=2)}])
def test_each_way_that_is_named_does_help(way: dict[str, Any]) -> None:
    found = estimate_memory(model("Qwen2.5-72B-Instruct", 136), replace(told(), **way), H200)
    assert found.conversations is not None and found.conversations > 1


def test_a_window_that_does_not_fit() -> None:
    name = "Qwen3-Coder-480B-A35B-Instruct-FP8"
    asked = told(window=262_144, parallel=Parallel(data=8, experts=True))
    # weights as they lie on one GPU: experts shared, the rest whole
    tensors = (TensorGroup("model.layers.*.mlp.up_proj.weight", "F8_E4M3", 2, int(67.5 * GIB)),)
    said = refusal(ModelDescription(name, parse_architecture(CONFIGS[name]), tensors), asked, 135.0)
    assert said.startswith(
        "a window of 262144 tokens does not fit: one conversation takes 62.0 GiB of KV cache (248.0 KiB a token), and "
    )
    assert "GiB are left for it on each of 8 GPUs (135 x 0.92 - 67.5 of weights - about 7.9); it would with" in said
    assert "--kv-cache-dtype fp8" in said and "--quant" not in said
    shorter = int(said.partition("--max-len ")[2].split()[0])
    assert estimate_memory(
        ModelDescription(name, parse_architecture(CONFIGS[name]), tensors), replace(asked, window=shorter), 135.0
    )


def test_a_window_beyond_the_models_own() -> None:
    said = refusal(model("Qwen3-32B", 61), told(window=40961))
    assert said == (
        "a window of 40961 tokens is more than Qwen3-32B was made for: its config.json says 40960; "
        "use --max-len 40960 or less"
    )
    # whoever tells vLLM so may go beyond, or changes what the config.json says
    assert estimate_memory(model("Qwen3-32B", 61), told(window=40961, VLLM_ALLOW_LONG_MAX_MODEL_LEN="1"), H200)
    assert estimate_memory(model("Qwen3-32B", 61), told("--hf-overrides", "{}", window=40961), H200)


def test_nothing_is_refused_within_what_the_estimate_may_be_off() -> None:
    tensors = (TensorGroup("model.layers.*.mlp.up_proj.weight", "BF16", 2, 120 * GIB),)
    found = estimate_memory(
        ModelDescription("m", parse_architecture(CONFIGS["Qwen3-32B"]), tensors), told(window=16_384), H200
    )
    assert "just fit" in found.note
    refusal(ModelDescription("m", parse_architecture(CONFIGS["Qwen3-32B"]), tensors), told(window=40_960))


def test_unknown_gpus_and_unknown_sizes_refuse_nothing() -> None:
    unknown = estimate_memory(model("Qwen2.5-72B-Instruct", 136), told(), None)
    assert unknown.cache_gib is None and "gpu_memory_gib" in unknown.note
    assert "size of its weights" in estimate_memory(model("Qwen2.5-72B-Instruct", None), told(), H200).note
    assert (
        estimate_memory(ModelDescription("m"), told(), None).note
        == "not checked: the model's config.json could not be read"
    )


def test_weights_are_checked_by_the_catalog_where_the_model_is_not_there() -> None:
    assert "weights fit" in estimate_memory(ModelDescription("m", catalog_gib=75), told(), H200).note
    assert "it would with --gpus 2" in refusal(ModelDescription("m", catalog_gib=200), told())
    # experts may be shared out by copies, and 8 bits take half: never more than the least is taken
    assert (
        estimate_memory(
            ModelDescription("m", catalog_gib=450), told(parallel=Parallel(data=8, experts=True)), H200
        ).weights_gib
        == 56.25
    )
    assert (
        estimate_memory(ModelDescription("m", catalog_gib=200), told("--quantization", "fp8"), H200).weights_gib == 100
    )


def test_a_cache_of_a_named_size_on_a_cpu() -> None:
    words = "--kv-cache-memory-bytes=268435456"
    found = estimate_memory(model("SmolLM2-135M", 0.3), told(words, cpu=True), None, 6)
    assert found.conversations == pytest.approx(1.42, abs=0.01)
    assert "its cache is set to 0.12 GiB; it would with --max-len 5000" in refusal(
        model("SmolLM2-135M", 0.3), told("--kv-cache-memory-bytes=134217728", cpu=True), None, 6
    )
    assert "more than the job's memory of 6 GiB" in refusal(model("SmolLM2-135M", 9), told(words, cpu=True), None, 6)


def test_the_record_reads_what_it_wrote() -> None:
    found = estimate_memory(model("Qwen3-32B", 61), told(window=40960), H200)
    assert MemoryEstimate.model_validate_json(found.model_dump_json()) == found
