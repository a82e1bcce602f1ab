"""What a model's config.json says about memory: its kinds of attention layers and the longest window. Pure.

vLLM keeps a cache per layer, and not every layer keeps the same: whole keys and values (most models), one latent vector
(DeepSeek, Kimi, GLM-5), the last few tokens only (sliding windows), or a state of fixed size (linear attention).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

# model_type of the config.json
# fmt: off
UNIFORM = frozenset((
    "apertus", "arcee", "cohere", "dots1", "ernie4_5", "ernie4_5_moe", "gemma", "glm", "glm4", "glm4_moe", "granite",
    "granitemoe", "hunyuan_v1_dense", "hunyuan_v1_moe", "internlm3", "llama", "minimax_m2", "ministral3", "mistral",
    "mixtral", "nemotron", "olmo2", "phi3", "qwen2", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_moe", "qwen2_vl",
    "qwen2_vl_text", "qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_moe", "qwen3_vl_moe_text", "qwen3_vl_text", "seed_oss",
    "smollm3", "stablelm", "starcoder2",
))
# fmt: on
LATENT = frozenset(("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_k2"))
LINEAR = frozenset(("qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text"))
SLIDING = frozenset(("cohere2", "exaone4", "gemma2", "gemma3", "gemma3_text", "gpt_oss", "olmo3"))
# where a config.json of such a model does not list its layers: every so manieth attends to everything
EVERY: Mapping[str, int] = {"gpt_oss": 2, "gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
# these say their window after scaling
SCALED = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"})
WINDOW_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "seq_len")
# a sparse indexer keeps its keys in 8 bits with a 4-byte scale for each 128 of them
INDEX_GROUP, INDEX_SCALE = 128, 4


@dataclass(frozen=True)
class Heads:
    """Layers that keep keys and values of each head; window: only of so many tokens."""

    layers: int
    kv_heads: int
    key_size: int
    value_size: int
    window: int | None = None


@dataclass(frozen=True)
class Latent:
    """Layers that keep one vector per token, the same on every GPU. index_bytes: a sparse indexer's, of all layers."""

    layers: int
    size: int
    index_bytes: int = 0


@dataclass(frozen=True)
class States:
    """Layers that keep a state of fixed size per conversation: values of the model's type, and of state_bytes each."""

    layers: int
    plain: int
    state: int
    state_bytes: int


@dataclass(frozen=True)
class Shape:
    """A model as far as memory goes. attention is empty where the architecture is not known here."""

    kind: str
    layers: int
    hidden: int
    vocabulary: int
    wide: int
    value_bytes: int
    longest: int | None
    attention: tuple[Heads | Latent, ...] = ()
    states: States | None = None
    quantised: bool = False
    packed: bool = False
    cache_fp8: bool = False
    tied: bool = False

    @property
    def kv_heads(self) -> int | None:
        """Key and value heads, None where there are none to share out."""
        return next((part.kv_heads for part in self.attention if isinstance(part, Heads)), None)


def read_shape(config: Config) -> Shape:
    """The shape that a config.json describes; of what it leaves out, what transformers takes."""
    text = _text(config)
    kind = str(text.get("model_type") or config.get("model_type") or "")
    quant = _quantization(config)
    attention, states = _layers(kind, text)
    return Shape(
        kind=kind or "unnamed",
        layers=_int(text, "num_hidden_layers"),
        hidden=_int(text, "hidden_size"),
        vocabulary=_int(text, "vocab_size"),
        wide=_width(text),
        value_bytes=4 if _word(config, text, "dtype", "torch_dtype").endswith("float32") else 2,
        longest=longest_window(config),
        attention=attention,
        states=states,
        quantised=bool(quant),
        packed=str(quant.get("quant_method", "")).lower() == "mxfp4",
        cache_fp8=_caches_fp8(quant),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
    )


def longest_window(config: Config) -> int | None:
    """Tokens that the model was made for, with its rope scaling; None where its config.json does not say."""
    text = _text(config)
    said = [value for key in WINDOW_KEYS if isinstance(value := text.get(key), int) and value > 0]
    if not said:
        return None
    longest = float(min(said))
    for rope in _ropes(text):
        factor = rope.get("factor")
        if not isinstance(factor, int | float) or str(config.get("model_type", "")).startswith("gemma3"):
            continue
        first = rope.get("original_max_position_embeddings")
        if str(rope.get("rope_type") or rope.get("type")) not in SCALED:
            longest = max(longest, min(said) * factor)
        elif isinstance(first, int):
            # of a yarn model, older releases of vLLM multiply the original window; the more generous reading counts
            longest = max(longest, first * factor)
    named = text.get("model_max_length")
    return int(max(longest, named)) if isinstance(named, int) else int(longest)


def _text(config: Config) -> Config:
    """The language model's part of a model that also sees."""
    for name in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(name), Mapping):
            return config[name]  # type: ignore[no-any-return]
    return config


def _quantization(config: Config) -> Config:
    for part in (config, _text(config)):
        for name in ("quantization_config", "compression_config"):
            if isinstance(part.get(name), Mapping) and part[name]:
                return part[name]  # type: ignore[no-any-return]
    return {}


def _caches_fp8(quant: Config) -> bool:
    """Whether the checkpoint asks for a cache of 8 bits, which vLLM follows."""
    scheme = quant.get("kv_cache_scheme")
    bits = scheme.get("num_bits") if isinstance(scheme, Mapping) else None
    return bits == 8 or str(quant.get("kv_cache_quant_algo", "")).upper() == "FP8"


def _ropes(text: Config) -> list[Config]:
    found = [text.get("rope_parameters"), text.get("rope_scaling")]
    flat = [rope for rope in found if isinstance(rope, Mapping)]
    nested = [inner for rope in flat for inner in rope.values() if isinstance(inner, Mapping)]
    return [*flat, *nested]


def _layers(kind: str, text: Config) -> tuple[tuple[Heads | Latent, ...], States | None]:
    layers = _int(text, "num_hidden_layers")
    if not layers or "global_head_dim" in text or "compress_ratios" in text:
        return (), None
    if kind in LATENT and text.get("kv_lora_rank"):
        return (_latent(layers, text),), None
    if kind in LINEAR:
        full = _count(text, "full_attention", layers // _int(text, "full_attention_interval", 4))
        return (_heads(full, text),), _states(layers - full, text)
    if kind in SLIDING and text.get("sliding_window"):
        every = _int(text, "sliding_window_pattern", EVERY.get(kind, 0))
        if not every and not text.get("layer_types"):
            return (), None
        full = _count(text, "full_attention", layers // (every or 1))
        sliding = _heads(layers - full, text, _int(text, "sliding_window"))
        return tuple(part for part in (_heads(full, text), sliding) if part.layers), None
    slides = text.get("sliding_window") and text.get("use_sliding_window") is not False
    if kind in UNIFORM and not slides and _count(text, "full_attention", layers) == layers:
        return (_heads(layers, text),), None
    return (), None


def _heads(layers: int, text: Config, window: int | None = None) -> Heads:
    heads = _int(text, "num_attention_heads", 1)
    size = _int(text, "head_dim") or _int(text, "hidden_size") // heads
    return Heads(layers, _int(text, "num_key_value_heads", heads), size, size, window)


def _latent(layers: int, text: Config) -> Latent:
    index = 0
    if text.get("index_topk"):
        size = _int(text, "index_head_dim", 128)
        kinds = text.get("indexer_types")
        own = sum(kind != "shared" for kind in kinds) if isinstance(kinds, list) else layers
        index = own * (size + size // INDEX_GROUP * INDEX_SCALE)
    return Latent(layers, _int(text, "kv_lora_rank") + _int(text, "qk_rope_head_dim"), index)


def _states(layers: int, text: Config) -> States:
    """A gated delta net: the last inputs of its convolution, and a matrix for each value head."""
    key, value = _int(text, "linear_key_head_dim", 128), _int(text, "linear_value_head_dim", 128)
    keys, values = _int(text, "linear_num_key_heads", 16), _int(text, "linear_num_value_heads", 32)
    inputs = (2 * key * keys + value * values) * (_int(text, "linear_conv_kernel_dim", 4) - 1)
    return States(layers, inputs, values * value * key, 4 if text.get("mamba_ssm_dtype") == "float32" else 0)


def _count(text: Config, name: str, otherwise: int) -> int:
    kinds = text.get("layer_types")
    return sum(kind == name for kind in kinds) if isinstance(kinds, list) and kinds else otherwise


def _width(text: Config) -> int:
    """Values between the two halves of the feed-forward part, for one token: of all the experts that it visits."""
    chosen = _int(text, "num_experts_per_tok")
    if not chosen:
        return _int(text, "intermediate_size")
    return chosen * (_int(text, "moe_intermediate_size") or _int(text, "intermediate_size"))


def _word(config: Config, text: Config, *names: str) -> str:
    parts: Sequence[Config] = (config, text)
    return next((str(part[name]) for part in parts for name in names if part.get(name)), "")


def _int(text: Config, name: str, otherwise: int = 0) -> int:
    value = text.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
