"""Which of vLLM's parsers fit a model: by its model_type, and by what its chat template writes. Pure.

The names are those of vLLM's `--tool-call-parser` and `--reasoning-parser`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Thinking = Literal["none", "off", "on", "always"]

# by model_type of the config.json: (tool parser, reasoning parser)
_BY_TYPE: Mapping[str, tuple[str | None, str | None]] = {
    "apertus": ("apertus", None),
    "cohere2": ("cohere_command3", None),
    "deepseek_v3": ("deepseek_v3", "deepseek_r1"),
    "deepseek_v32": ("deepseek_v32", "deepseek_v3"),
    "ernie4_5": ("ernie45", "ernie45"),
    "ernie4_5_moe": ("ernie45", "ernie45"),
    "glm4_moe": ("glm45", "glm45"),
    "glm4_moe_lite": ("glm47", "glm45"),
    "glm_moe_dsa": ("glm47", "glm45"),
    "gpt_oss": ("openai", "openai_gptoss"),
    "granite": ("granite", "granite"),
    "granitemoe": ("granite", "granite"),
    "granitemoehybrid": ("granite4", None),
    "hunyuan_v1_moe": ("hunyuan_a13b", "hunyuan_a13b"),
    "jamba": ("jamba", None),
    "kimi_k2": ("kimi_k2", "kimi_k2"),
    "lfm2": ("lfm2", None),
    "llama4": ("llama4_pythonic", None),
    "minimax_m2": ("minimax_m2", "minimax_m2"),
    "ministral3": ("mistral", None),
    "mistral": ("mistral", None),
    "mistral3": ("mistral", None),
    "mixtral": ("mistral", None),
    "olmo3": ("olmo3", "olmo3"),
    "phi3": ("phi4_mini_json", None),
    "seed_oss": ("seed_oss", "seed_oss"),
    "step3": ("step3", "step3"),
}
# what a template writes around a call; the first that is there decides
_BY_TEMPLATE: tuple[tuple[str, str], ...] = (
    ("<function=", "qwen3_coder"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v3"),
    ("<minimax:tool_call>", "minimax_m2"),
    ("<arg_key>", "glm45"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
    ('"parameters": dictionary of argument name', "llama3_json"),
    ("<tool_call>", "hermes"),
)


@dataclass(frozen=True)
class ModelParsers:
    """What vLLM needs to read the model's tool calls and thoughts."""

    tools: str | None
    reasoning: str | None
    thinking: Thinking


def choose_parsers(model_type: str, template: str) -> ModelParsers:
    """Return the parsers for a model. Without tools in its template it has none, whatever its type."""
    has_tools = "tools" in template or "tool_call" in template
    by_type = _BY_TYPE.get(model_type, (None, None))
    found = next((parser for mark, parser in _BY_TEMPLATE if mark in template), None)
    # a template is nearer to the model than its type: a fine-tuned model may write calls in another form
    tools = (found or by_type[0]) if has_tools else None
    if model_type in _BY_TYPE and has_tools and found in ("hermes", "glm45", "deepseek_v3"):
        tools = by_type[0]
    thinking = choose_thinking(model_type, template)
    reasoning = by_type[1] if thinking != "none" else None
    if thinking != "none" and reasoning is None:
        reasoning = "qwen3" if model_type.startswith("qwen3") else "deepseek_r1"
    return ModelParsers(tools, reasoning, thinking)


def choose_thinking(model_type: str, template: str) -> Thinking:
    """Return whether the model thinks: with a switch in its template it is off by default."""
    if "enable_thinking" in template:
        return "off"
    return "always" if "<think>" in template or model_type in ("gpt_oss", "minimax_m2") else "none"
