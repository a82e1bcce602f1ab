"""config.json of published models, as far as memory goes (read in August 2026 from their model cards)."""

from __future__ import annotations

from typing import Any

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}

CONFIGS: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
        "max_position_embeddings": 8192, "dtype": "bfloat16", "tie_word_embeddings": True,
    },
    "Qwen3-32B": {
        "model_type": "qwen3", "num_hidden_layers": 64, "hidden_size": 5120, "intermediate_size": 25600,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
        "use_sliding_window": False, "sliding_window": None,
    },
    "Qwen2.5-72B-Instruct": {
        "model_type": "qwen2", "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 29568,
        "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 32768,
        "torch_dtype": "bfloat16", "tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": 131072,
    },
    "Qwen3-235B-A22B-FP8": {
        "model_type": "qwen3_moe", "num_hidden_layers": 94, "hidden_size": 4096, "moe_intermediate_size": 1536,
        "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
        "num_experts": 128, "num_experts_per_tok": 8, "max_position_embeddings": 40960, "torch_dtype": "bfloat16",
        "quantization_config": FP8,
    },
    "Qwen3-Coder-480B-A35B-Instruct-FP8": {
        "model_type": "qwen3_moe", "num_hidden_layers": 62, "hidden_size": 6144, "moe_intermediate_size": 2560,
        "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "num_experts": 160, "num_experts_per_tok": 8, "max_position_embeddings": 262144, "torch_dtype": "bfloat16",
        "quantization_config": FP8,
    },
    "Qwen3-Coder-Next-FP8": {
        "model_type": "qwen3_next", "num_hidden_layers": 48, "hidden_size": 2048, "moe_intermediate_size": 512,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 151936,
        "num_experts": 512, "num_experts_per_tok": 10, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "max_position_embeddings": 262144, "torch_dtype": "bfloat16",
        "quantization_config": FP8,
    },
    "Qwen3.8-27B-FP8": {
        "model_type": "qwen3_5", "quantization_config": FP8, "text_config": {
            "model_type": "qwen3_5_text", "num_hidden_layers": 64, "hidden_size": 5120, "intermediate_size": 17408,
            "num_attention_heads": 24, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 248320,
            "layer_types": [*("linear_attention",) * 3, "full_attention"] * 16, "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
            "linear_num_value_heads": 48, "mamba_ssm_dtype": "float32", "max_position_embeddings": 262144,
            "dtype": "bfloat16",
        },
    },
    "gpt-oss-120b": {
        "model_type": "gpt_oss", "num_hidden_layers": 36, "hidden_size": 2880, "intermediate_size": 2880,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088,
        "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 18, "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
        "quantization_config": {"quant_method": "mxfp4"},
    },
    "gemma-3-27b": {
        "model_type": "gemma3", "torch_dtype": "bfloat16", "text_config": {
            "model_type": "gemma3_text", "num_hidden_layers": 62, "hidden_size": 5376, "intermediate_size": 21504,
            "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "vocab_size": 262208,
            "sliding_window": 1024, "sliding_window_pattern": 6, "max_position_embeddings": 131072,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    },
    "DeepSeek-V3": {
        "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "intermediate_size": 18432,
        "moe_intermediate_size": 2048, "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512,
        "q_lora_rank": 1536, "qk_rope_head_dim": 64, "n_routed_experts": 256, "num_experts_per_tok": 8,
        "vocab_size": 129280, "max_position_embeddings": 163840, "torch_dtype": "bfloat16",
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
        "quantization_config": FP8,
    },
    "GLM-5.1-FP8": {
        "model_type": "glm_moe_dsa", "num_hidden_layers": 78, "hidden_size": 6144, "moe_intermediate_size": 2048,
        "num_attention_heads": 64, "num_key_value_heads": 64, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "index_topk": 2048, "index_head_dim": 128, "n_routed_experts": 256, "num_experts_per_tok": 8,
        "vocab_size": 154880, "max_position_embeddings": 202752, "dtype": "bfloat16", "quantization_config": FP8,
    },
    "MiniMax-M2.7": {
        "model_type": "minimax_m2", "num_hidden_layers": 62, "hidden_size": 3072, "intermediate_size": 1536,
        "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 200064,
        "num_local_experts": 256, "num_experts_per_tok": 8, "max_position_embeddings": 196608,
        "quantization_config": FP8,
    },
    "GLM-4.7-FP8": {
        "model_type": "glm4_moe", "num_hidden_layers": 92, "hidden_size": 5120, "moe_intermediate_size": 1536,
        "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151552,
        "n_routed_experts": 160, "num_experts_per_tok": 8, "max_position_embeddings": 202752, "dtype": "bfloat16",
        "quantization_config": FP8,
    },
}  # fmt: skip
