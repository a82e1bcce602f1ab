"""Thinking: when a request asks a model for it, and how `<think>` blocks are removed from its answers. Pure.

A model's trait `thinking` (catalog): `none` cannot think, `off` and `on` can and name the default, `always` cannot
stop. vLLM turns thinking on for any effort but `none`, and rejects a budget without a reasoning parser.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from bouchet_core.deployments import Traits

Body = dict[str, Any]

OPEN, CLOSE = "<think>", "</think>"
# possessive, so that what does not match is read once
_CLOSES = re.compile(r"\s*+(?:</think>\s*+)*+")
EFFORTS = ("low", "medium", "high", "xhigh", "max")
DEFAULT_EFFORT = "medium"
# vLLM's minimum for `thinking.budget_tokens`
MIN_BUDGET = 1024


def resolve_anthropic_thinking(body: Body, traits: Traits) -> Body:
    """Return the body with `thinking` and `output_config.effort` as this model accepts them.

    `enabled` is a request of the user's; `adaptive`, which Claude Code always sends, leaves it to the model's default.
    """
    requested = body.get("thinking")
    kind = requested.get("type") if isinstance(requested, dict) else None
    config = body.get("output_config")
    effort = config.get("effort") if isinstance(config, dict) else None
    rest = {key: value for key, value in body.items() if key != "thinking"}
    rest = _with_effort(rest, None)
    if traits.thinking == "none" or (traits.thinking == "always" and kind != "enabled"):
        return rest
    if kind == "enabled" or (traits.thinking == "on" and kind != "disabled"):
        wanted = effort if effort in EFFORTS else DEFAULT_EFFORT
        return _with_effort({**rest, **_budget(requested, body, traits)}, wanted)
    return {**rest, "thinking": {"type": "disabled"}}


def resolve_openai_thinking(body: Body, traits: Traits) -> Body:
    """Return the body with `reasoning_effort` and the chat template's switch as this model accepts them."""
    if traits.thinking in ("none", "always"):
        return {key: value for key, value in body.items() if key != "reasoning_effort"}
    kwargs = body.get("chat_template_kwargs")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    if "enable_thinking" in kwargs or body.get("reasoning_effort") is not None:
        return body
    return {**body, "chat_template_kwargs": {**kwargs, "enable_thinking": traits.thinking == "on"}}


def _with_effort(body: Body, effort: str | None) -> Body:
    config = body.get("output_config")
    kept = {key: value for key, value in config.items() if key != "effort"} if isinstance(config, dict) else {}
    if effort is not None:
        kept["effort"] = effort
    rest = {key: value for key, value in body.items() if key != "output_config"}
    return {**rest, "output_config": kept} if kept else rest


def _budget(requested: object, body: Body, traits: Traits) -> Body:
    """Return `thinking` with a budget that vLLM accepts, or adaptive where there is none."""
    budget = requested.get("budget_tokens") if isinstance(requested, dict) else None
    limit = body.get("max_tokens")
    if traits.reasoning_parser and isinstance(budget, int) and isinstance(limit, int):
        fitting = min(budget, limit - 1)
        if fitting >= MIN_BUDGET:
            return {"thinking": {"type": "enabled", "budget_tokens": fitting}}
    return {"thinking": {"type": "adaptive"}}


class ThinkStripper:
    """Removes leading `<think>...</think>` blocks from a text that arrives in pieces of any size.

    Only a block at the start of the text (after white space) is removed: a later tag is part of the answer. Text that
    cannot be the beginning of a tag is returned at once. An unclosed block hides the rest.

    starts_inside: the prompt itself ended with `<think>`, so the text begins inside the block; it is buffered until the
    block ends, and returned whole if it never does.
    """

    def __init__(self, starts_inside: bool = False) -> None:
        self._state: Literal["opened", "leading", "inside", "passing"] = "opened" if starts_inside else "leading"
        self._buffer = ""
        self._thoughts: list[str] = []

    @property
    def passing(self) -> bool:
        """Whether all further text is returned unchanged."""
        return self._state == "passing"

    def feed(self, text: str) -> str:
        """Return what the client may see of this piece, and of what was buffered before it."""
        if self._state == "passing":
            return text
        self._buffer += text
        visible, settled = "", False
        while not settled:
            before: str = self._state
            visible += self._take_leading() if before == "leading" else self._skip_thoughts()
            settled = self._state in (before, "passing")
        return visible

    def finish(self) -> str:
        """Return what was buffered as the possible beginning of a tag."""
        rest = self._buffer if self._state in ("leading", "opened") else ""
        if self._state == "opened":
            rest = strip_thinking("".join(self._thoughts) + rest)
        self._buffer, self._thoughts = "", []
        return rest

    def _take_leading(self) -> str:
        # ends of a block that began in the prompt, or of none at all
        closed = _CLOSES.match(self._buffer)
        body = self._buffer[closed.end() :] if closed else self._buffer
        space = closed[0].replace(CLOSE, "") if closed else ""
        if body.startswith(OPEN):
            self._buffer, self._state = body[len(OPEN) :], "inside"
            return space
        if OPEN.startswith(body) or CLOSE.startswith(body):
            self._buffer = body
            return space
        self._buffer, self._state = "", "passing"
        return space + body

    def _skip_thoughts(self) -> str:
        inside, close, after = self._buffer.partition(CLOSE)
        if close:
            self._buffer, self._state, self._thoughts = after, "leading", []
        else:
            border = max(0, len(inside) - len(CLOSE) + 1)
            if self._state == "opened":
                self._thoughts.append(inside[:border])
            self._buffer = inside[border:]
        return ""


def strip_thinking(text: str, starts_inside: bool = False) -> str:
    """Return the whole text without its leading think blocks."""
    stripper = ThinkStripper(starts_inside)
    return stripper.feed(text) + stripper.finish()
