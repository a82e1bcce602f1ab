"""How many tokens an answer says it took, in any of the dialects. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tokens:
    """input: prompt tokens outside the prefix cache; cached: those in it."""

    input: int = 0
    cached: int = 0
    output: int = 0


def tokens_of(usage: object) -> Tokens:
    """The counts in a `usage` object of any of the dialects."""
    if not isinstance(usage, dict):
        return Tokens()
    if "prompt_tokens" in usage:
        cached = _detail(usage, "prompt_tokens_details")
        return Tokens(_count(usage, "prompt_tokens") - cached, cached, _count(usage, "completion_tokens"))
    output, cached = _count(usage, "output_tokens"), _count(usage, "cache_read_input_tokens")
    if "input_tokens_details" in usage:  # OpenAI's responses count cached tokens among the input, Anthropic does not
        cached = _detail(usage, "input_tokens_details")
        return Tokens(_count(usage, "input_tokens") - cached, cached, output)
    return Tokens(_count(usage, "input_tokens") + _count(usage, "cache_creation_input_tokens"), cached, output)


def _detail(usage: Mapping[str, Any], name: str) -> int:
    details = usage.get(name)
    return min(_count(details, "cached_tokens"), _total(usage)) if isinstance(details, dict) else 0


def _total(usage: Mapping[str, Any]) -> int:
    return _count(usage, "prompt_tokens") or _count(usage, "input_tokens")


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0
