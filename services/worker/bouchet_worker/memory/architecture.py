"""What a model's config.json says about memory: its kinds of attention layers and its longest window. Pure.

vLLM keeps a cache per layer, and layers keep different things: keys and values of all tokens (most models), one latent
vector per token (DeepSeek, Kimi, GLM-5), the last tokens only (sliding windows), or a state of fixed size (linear
attention).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

# by model_type of the config.json
# fmt: off
FULL_ATTENTION = frozenset((
    "apertus", "arcee", "cohere", "dots1", "ernie4_5", "ernie4_5_moe", "gemma", "glm", "glm4", "glm4_moe", "granite",
    "granitemoe", "hunyuan_v1_dense", "hunyuan_v1_moe", "internlm3", "llama", "minimax_m2", "ministral3", "mistral",
    "mixtral", "nemotron", "olmo2", "phi3", "qwen2", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_moe", "qwen2_vl",
    "qwen2_vl_text", "qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_moe", "qwen3_vl_moe_text", "qwen3_vl_text", "seed_oss",
    "smollm3", "stablelm", "starcoder2",
))
# fmt: on
LATENT_ATTENTION = frozenset(("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_k2"))
LINEAR_ATTENTION = frozenset(("qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text"))
SLIDING_WINDOW = frozenset(("cohere2", "exaone4", "gemma2", "gemma3", "gemma3_text", "gpt_oss", "olmo3"))
# every n-th layer has full attention, in a config.json that does not list its layers
FULL_ATTENTION_INTERVAL: Mapping[str, int] = {
    "gpt_oss": 2, "gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4,
}  # fmt: skip
# rope types whose config.json has the window after scaling
SCALED_ROPE = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"})
WINDOW_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "seq_len")
# no dimension or window is longer, and no window is stretched more
LARGEST, LARGEST_FACTOR = 1 << 40, 4096
# a sparse indexer keeps 8-bit keys with a 4-byte scale for each 128 of them
INDEX_GROUP, INDEX_SCALE_BYTES = 128, 4


@dataclass(frozen=True)
class AttentionLayers:
    """Layers that keep keys and values of each head. window: only of so many tokens, None for all."""

    count: int
    kv_heads: int
    key_size: int
    value_size: int
    window: int | None = None


@dataclass(frozen=True)
class LatentLayers:
    """Layers that keep one vector per token, replicated on every GPU. index_bytes: a sparse indexer's, all layers."""

    count: int
    size: int
    index_bytes: int = 0


@dataclass(frozen=True)
class StateLayers:
    """Layers that keep a state of fixed size per conversation.

    values have the model's type, matrix_values have matrix_value_bytes each (0: the model's type).
    """

    count: int
    values: int
    matrix_values: int
    matrix_value_bytes: int


@dataclass(frozen=True)
class Architecture:
    """A model's dimensions. attention is empty when the kind of model is not known."""

    kind: str
    layers: int
    hidden: int
    vocabulary: int
    # values of the feed-forward part for one token, over all experts that the token visits
    feed_forward: int
    value_bytes: int
    # tokens
    longest_window: int | None
    attention: tuple[AttentionLayers | LatentLayers, ...] = ()
    state: StateLayers | None = None
    quantised: bool = False
    mxfp4: bool = False
    fp8_cache: bool = False
    # input and output embeddings are one tensor
    tied: bool = False

    @property
    def kv_heads(self) -> int | None:
        """The number of key and value heads, None when there are none."""
        return next((layers.kv_heads for layers in self.attention if isinstance(layers, AttentionLayers)), None)


def parse_architecture(config: Config) -> Architecture:
    """Return the architecture that a config.json describes, with transformers' defaults for missing keys."""
    text = _text_config(config)
    kind = str(text.get("model_type") or config.get("model_type") or "")
    quantization = _quantization(config)
    attention, state = _parse_layers(kind, text)
    if not all(_is_sized(part) for part in attention):
        attention, state = (), None
    return Architecture(
        kind=kind or "unnamed",
        layers=_int(text, "num_hidden_layers"),
        hidden=_int(text, "hidden_size"),
        vocabulary=_int(text, "vocab_size"),
        feed_forward=_feed_forward(text),
        value_bytes=4 if _string(config, text, "dtype", "torch_dtype").endswith("float32") else 2,
        longest_window=parse_longest_window(config),
        attention=attention,
        state=state,
        quantised=bool(quantization),
        mxfp4=str(quantization.get("quant_method", "")).lower() == "mxfp4",
        fp8_cache=_has_fp8_cache(quantization),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
    )


def parse_longest_window(config: Config) -> int | None:
    """Return the tokens that the model was made for, with rope scaling; None when config.json has no such key."""
    text = _text_config(config)
    windows = [value for key in WINDOW_KEYS if (value := _int(text, key))]
    if not windows:
        return None
    longest = float(min(windows))
    for rope in _ropes(text):
        factor = rope.get("factor")
        if (
            not isinstance(factor, int | float)
            or not 0 < factor <= LARGEST_FACTOR
            or str(config.get("model_type", "")).startswith("gemma3")
        ):
            continue
        original = _int(rope, "original_max_position_embeddings")
        if str(rope.get("rope_type") or rope.get("type")) not in SCALED_ROPE:
            longest = max(longest, min(windows) * factor)
        elif original:
            # older releases of vLLM multiply the original window of a yarn model; the larger result counts
            longest = max(longest, original * factor)
    return int(max(longest, _int(text, "model_max_length")))


def _text_config(config: Config) -> Config:
    """Return the language model's part of a multimodal model's config."""
    for name in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(name), Mapping):
            return config[name]  # type: ignore[no-any-return]
    return config


def _quantization(config: Config) -> Config:
    for part in (config, _text_config(config)):
        for name in ("quantization_config", "compression_config"):
            if isinstance(part.get(name), Mapping) and part[name]:
                return part[name]  # type: ignore[no-any-return]
    return {}


def _has_fp8_cache(quantization: Config) -> bool:
    """Return whether the checkpoint asks for an 8-bit KV cache, which vLLM follows."""
    scheme = quantization.get("kv_cache_scheme")
    bits = scheme.get("num_bits") if isinstance(scheme, Mapping) else None
    return bits == 8 or str(quantization.get("kv_cache_quant_algo", "")).upper() == "FP8"


def _ropes(text: Config) -> list[Config]:
    found = [text.get("rope_parameters"), text.get("rope_scaling")]
    flat = [rope for rope in found if isinstance(rope, Mapping)]
    nested = [inner for rope in flat for inner in rope.values() if isinstance(inner, Mapping)]
    return [*flat, *nested]


def _parse_layers(kind: str, text: Config) -> tuple[tuple[AttentionLayers | LatentLayers, ...], StateLayers | None]:
    layers = _int(text, "num_hidden_layers")
    if not layers or "global_head_dim" in text or "compress_ratios" in text:
        return (), None
    if kind in LATENT_ATTENTION and text.get("kv_lora_rank"):
        return (_latent_layers(layers, text),), None
    if kind in LINEAR_ATTENTION:
        full = _count_layers(text, "full_attention", layers // _int(text, "full_attention_interval", 4))
        return (_attention_layers(full, text),), _state_layers(layers - full, text)
    if kind in SLIDING_WINDOW and text.get("sliding_window"):
        interval = _int(text, "sliding_window_pattern", FULL_ATTENTION_INTERVAL.get(kind, 0))
        if not interval and not text.get("layer_types"):
            return (), None
        full = _count_layers(text, "full_attention", layers // (interval or 1))
        sliding = _attention_layers(layers - full, text, _int(text, "sliding_window"))
        return tuple(part for part in (_attention_layers(full, text), sliding) if part.count), None
    slides = text.get("sliding_window") and text.get("use_sliding_window") is not False
    if kind in FULL_ATTENTION and not slides and _count_layers(text, "full_attention", layers) == layers:
        return (_attention_layers(layers, text),), None
    return (), None


def _is_sized(layers: AttentionLayers | LatentLayers) -> bool:
    """Return whether the config.json has what such layers need."""
    return layers.count >= 0 and (layers.size if isinstance(layers, LatentLayers) else layers.key_size) > 0


def _attention_layers(count: int, text: Config, window: int | None = None) -> AttentionLayers:
    heads = _int(text, "num_attention_heads", 1)
    size = _int(text, "head_dim") or _int(text, "hidden_size") // heads
    return AttentionLayers(count, _int(text, "num_key_value_heads", heads), size, size, window)


def _latent_layers(count: int, text: Config) -> LatentLayers:
    index = 0
    if text.get("index_topk"):
        size = _int(text, "index_head_dim", 128)
        kinds = text.get("indexer_types")
        own = sum(kind != "shared" for kind in kinds) if isinstance(kinds, list) else count
        index = own * (size + size // INDEX_GROUP * INDEX_SCALE_BYTES)
    return LatentLayers(count, _int(text, "kv_lora_rank") + _int(text, "qk_rope_head_dim"), index)


def _state_layers(count: int, text: Config) -> StateLayers:
    """Return a gated delta net: the last inputs of its convolution, and a matrix for each value head."""
    key, value = _int(text, "linear_key_head_dim", 128), _int(text, "linear_value_head_dim", 128)
    keys, values = _int(text, "linear_num_key_heads", 16), _int(text, "linear_num_value_heads", 32)
    inputs = (2 * key * keys + value * values) * (_int(text, "linear_conv_kernel_dim", 4) - 1)
    return StateLayers(count, inputs, values * value * key, 4 if text.get("mamba_ssm_dtype") == "float32" else 0)


def _count_layers(text: Config, kind: str, default: int) -> int:
    kinds = text.get("layer_types")
    return sum(name == kind for name in kinds) if isinstance(kinds, list) and kinds else default


def _feed_forward(text: Config) -> int:
    experts = _int(text, "num_experts_per_tok")
    if not experts:
        return _int(text, "intermediate_size")
    return experts * (_int(text, "moe_intermediate_size") or _int(text, "intermediate_size"))


def _string(config: Config, text: Config, *names: str) -> str:
    parts: Sequence[Config] = (config, text)
    return next((str(part[name]) for part in parts for name in names if part.get(name)), "")


def whole_number(value: object) -> int:
    """Return a number of a config.json; 0 for what cannot be a dimension of a model: other types, below 1, endless."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0
    return int(value) if 1 <= value <= LARGEST and value == int(value) else 0


def _int(text: Config, name: str, default: int = 0) -> int:
    return whole_number(text.get(name)) or default
