"""Tokens in requests and responses: the limit a client may set on the answer, and the counts in a `usage` object. Pure.

vLLM rejects `max_tokens` above the whole context window, and trims by itself what exceeds prompt and window together;
so the window is the only limit that has to be applied here, and no prompt has to be counted for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]

# the name of the limit differs by dialect; OpenAI's clients send either of the first two
LIMIT_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def field_names(text: str) -> frozenset[str]:
    """Return the names in a text, which are separated by white space."""
    return frozenset(text.split())


def clamp_tokens(body: Body, window: int | None) -> Body:
    """Return the body with every limit above the window (in tokens) reduced to it; limits of another type stay."""
    if window is None:
        return body
    clamped = {name: window for name in LIMIT_FIELDS if _exceeds(body.get(name), window)}
    return {**body, **clamped} if clamped else body


def exceeds_window(body: Body, window: int | None) -> bool:
    """Return whether clamp_tokens would change a limit."""
    return window is not None and any(_exceeds(body.get(name), window) for name in LIMIT_FIELDS)


def own_limit(body: Body, *names: str) -> Body:
    """Return the body with its limit under the first of these names, which are those of its API, if another one's is
    all it has.
    """
    if any(body.get(name) is not None for name in names):
        return body
    found = next((body[name] for name in LIMIT_FIELDS if body.get(name) is not None), None)
    return body if found is None else {**body, names[0]: found}


def default_tokens(body: Body, name: str, max_output: int, window: int | None) -> Body:
    """Return the body with the catalog's answer length as the field `name` where the client set no limit."""
    if any(body.get(limit) is not None for limit in LIMIT_FIELDS):
        return body
    return {**body, name: max_output if window is None else min(max_output, window)}


def _exceeds(value: object, window: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > window


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """input: prompt tokens outside the prefix cache; cached: those in it."""

    input: int = 0
    cached: int = 0
    output: int = 0


def parse_usage(usage: object) -> TokenCounts:
    """Parse a `usage` object of any dialect."""
    if not isinstance(usage, dict):
        return TokenCounts()
    if "prompt_tokens" in usage:
        cached = _cached_detail(usage, "prompt_tokens_details")
        return TokenCounts(_count(usage, "prompt_tokens") - cached, cached, _count(usage, "completion_tokens"))
    output, cached = _count(usage, "output_tokens"), _count(usage, "cache_read_input_tokens")
    if "input_tokens_details" in usage:  # OpenAI's responses count cached tokens as input, Anthropic does not
        cached = _cached_detail(usage, "input_tokens_details")
        return TokenCounts(_count(usage, "input_tokens") - cached, cached, output)
    return TokenCounts(_count(usage, "input_tokens") + _count(usage, "cache_creation_input_tokens"), cached, output)


def complete_details(usage: object) -> None:
    """Add to a `usage` object of OpenAI's responses the counts that its SDK's types require and vLLM does not have."""
    if not isinstance(usage, dict):
        return
    for name, count in (("input_tokens_details", "cache_write_tokens"), ("output_tokens_details", "reasoning_tokens")):
        if isinstance(details := usage.setdefault(name, {}), dict):
            details.setdefault(count, 0)


def _cached_detail(usage: Mapping[str, Any], name: str) -> int:
    details = usage.get(name)
    total = _count(usage, "prompt_tokens") or _count(usage, "input_tokens")
    return min(_count(details, "cached_tokens"), total) if isinstance(details, dict) else 0


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0
