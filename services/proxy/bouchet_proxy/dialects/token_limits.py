"""How many tokens a client may ask for. Pure.

vLLM refuses `max_tokens` above the whole window, and trims by itself what exceeds prompt and window together; so the
window is the only bound that needs setting here, and no prompt has to be counted for it.
"""

from __future__ import annotations

from typing import Any

Body = dict[str, Any]

# the word for "tokens of the answer" differs by dialect; OpenAI's clients send either of two
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def clamp_tokens(body: Body, window: int | None) -> Body:
    """The body with every limit above the window (in tokens) cut to it; limits that are no numbers stay."""
    if window is None:
        return body
    cut = {word: window for word in LIMITS if _exceeds(body.get(word), window)}
    return {**body, **cut} if cut else body


def asks_too_much(body: Body, window: int | None) -> bool:
    """Whether clamp_tokens would cut anything."""
    return window is not None and any(_exceeds(body.get(word), window) for word in LIMITS)


def default_tokens(body: Body, word: str, max_output: int, window: int | None) -> Body:
    """The body with the catalog's answer length under `word` where the client named none at all."""
    if any(body.get(limit) is not None for limit in LIMITS):
        return body
    return {**body, word: max_output if window is None else min(max_output, window)}


def _exceeds(value: object, window: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > window
