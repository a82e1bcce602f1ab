"""What is read from a config.json."""

from __future__ import annotations

from typing import Any

import pytest
from bouchet_worker.memory.architecture import parse_architecture, parse_longest_window

from .model_configs import CONFIGS

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
        ({"n_positions": 1024.0, "max_position_embeddings": "1000"}, 1024),
        # JSON of Python has numbers without end, and writers have sentinels
        ({"n_positions": 1024, "model_max_length": 10**30}, 1024),
        ({"n_positions": 1024, "rope_scaling": {"factor": float("inf")}}, 1024),
        ({"n_positions": 1024, "rope_scaling": {"factor": float("nan")}}, 1024),
        ({"n_positions": 1024, "rope_scaling": {"factor": -2}}, 1024),
        ({"n_positions": float("inf")}, None),
        ({"n_positions": True}, None),
        ({"n_positions": 0}, None),
        ({"model_type": "x"}, None),
        (CONFIGS["gemma-3-27b"], 131072),
        (CONFIGS["gpt-oss-120b"], 131072),
    ],
)
def test_parse_longest_window_applies_rope_scaling(config: dict[str, Any], longest: int | None) -> None:
    assert parse_longest_window(config) == longest


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "no_such_type", "num_hidden_layers": 8, "num_attention_heads": 8, "hidden_size": 64},
        {"model_type": "llama4_text", "num_hidden_layers": 8, "max_position_embeddings": 10},
        {"model_type": "mistral", "num_hidden_layers": 8, "num_attention_heads": 8, "hidden_size": 64,
         "sliding_window": 4096},
        {"model_type": "qwen3", "num_hidden_layers": 8, "num_attention_heads": 8, "hidden_size": 64,
         "layer_types": ["full_attention"] * 4 + ["something_new"] * 4},
        {},
        # layers without any size
        {"model_type": "qwen3", "num_hidden_layers": 8},
        {"model_type": "qwen3", "num_hidden_layers": 8, "num_attention_heads": 0, "hidden_size": "64"},
        {"model_type": "deepseek_v3", "num_hidden_layers": 8, "kv_lora_rank": [512]},
        # more layers in the list than the model has
        {"model_type": "gpt_oss", "num_hidden_layers": 1, "num_attention_heads": 8, "hidden_size": 64,
         "sliding_window": 128, "layer_types": ["full_attention"] * 4},
    ],
)  # fmt: skip
def test_parse_architecture_of_unknown_kind_has_no_attention(config: dict[str, Any]) -> None:
    assert parse_architecture(config).attention == ()
