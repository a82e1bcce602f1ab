"""Thinking: who may, when it is asked for, and the net that catches `<think>` blocks in answers. Pure.

A model's trait (catalog) says what it can: `none` cannot think, `off` and `on` can and name the default, `always`
cannot stop. vLLM turns thinking on for any effort but `none`, and refuses a budget without a reasoning parser.
"""

from __future__ import annotations

from typing import Any, Literal

from bouchet_core.deployments import Traits

Body = dict[str, Any]

OPEN, CLOSE = "<think>", "</think>"
EFFORTS = ("low", "medium", "high", "xhigh", "max")
DEFAULT_EFFORT = "medium"
# vLLM's bounds for `thinking.budget_tokens`
LEAST_BUDGET = 1024


def settle_anthropic(body: Body, traits: Traits) -> Body:
    """The body with `thinking` and `output_config.effort` as this model can take them.

    An explicit `enabled` is a wish; `adaptive`, which Claude Code sends with every request, leaves it to the model's
    default.
    """
    asked = body.get("thinking")
    kind = asked.get("type") if isinstance(asked, dict) else None
    config = body.get("output_config")
    effort = config.get("effort") if isinstance(config, dict) else None
    rest = {key: value for key, value in body.items() if key != "thinking"}
    rest = _with_effort(rest, None)
    if traits.thinking == "none" or (traits.thinking == "always" and kind != "enabled"):
        return rest
    if kind == "enabled" or (traits.thinking == "on" and kind != "disabled"):
        wanted = effort if effort in EFFORTS else DEFAULT_EFFORT
        return _with_effort({**rest, **_budget(asked, body, traits)}, wanted)
    return {**rest, "thinking": {"type": "disabled"}}


def settle_openai(body: Body, traits: Traits) -> Body:
    """The body with `reasoning_effort` and the template's switch as this model can take them."""
    if traits.thinking in ("none", "always"):
        return {key: value for key, value in body.items() if key != "reasoning_effort"}
    said = body.get("chat_template_kwargs")
    said = said if isinstance(said, dict) else {}
    if "enable_thinking" in said or body.get("reasoning_effort") is not None:
        return body
    return {**body, "chat_template_kwargs": {**said, "enable_thinking": traits.thinking == "on"}}


def _with_effort(body: Body, effort: str | None) -> Body:
    config = body.get("output_config")
    kept = {key: value for key, value in config.items() if key != "effort"} if isinstance(config, dict) else {}
    if effort is not None:
        kept["effort"] = effort
    rest = {key: value for key, value in body.items() if key != "output_config"}
    return {**rest, "output_config": kept} if kept else rest


def _budget(asked: object, body: Body, traits: Traits) -> Body:
    """`thinking` with a budget that vLLM takes, or adaptive where none would do."""
    budget = asked.get("budget_tokens") if isinstance(asked, dict) else None
    limit = body.get("max_tokens")
    if traits.reasoning_parser and isinstance(budget, int) and isinstance(limit, int):
        fitting = min(budget, limit - 1)
        if fitting >= LEAST_BUDGET:
            return {"thinking": {"type": "enabled", "budget_tokens": fitting}}
    return {"thinking": {"type": "adaptive"}}


class ThinkStripper:
    """Takes leading `<think>...</think>` blocks off a text that arrives in pieces of any size.

    Only a block that opens the text (after white space) is one: a tag anywhere later is somebody writing about it.
    Text that cannot be the beginning of a tag is given back at once. An unclosed block swallows the rest.

    opened: the prompt itself ended with `<think>`, so the text begins inside the block; it is held until the block
    ends, and given back whole if it never does.
    """

    def __init__(self, opened: bool = False) -> None:
        self._state: Literal["opened", "leading", "inside", "passing"] = "opened" if opened else "leading"
        self._held = ""
        self._thoughts: list[str] = []

    @property
    def passing(self) -> bool:
        """Whether all further text passes unchanged."""
        return self._state == "passing"

    def feed(self, text: str) -> str:
        """What may be shown of this piece (and of what was held before it)."""
        if self._state == "passing":
            return text
        self._held += text
        shown, settled = "", False
        while not settled:
            before: str = self._state
            shown += self._lead() if before == "leading" else self._skip()
            settled = self._state in (before, "passing")
        return shown

    def finish(self) -> str:
        """What was held in the hope of a tag and turned out to be text."""
        rest = self._held if self._state in ("leading", "opened") else ""
        if self._state == "opened":
            rest = strip_thinking("".join(self._thoughts) + rest)
        self._held, self._thoughts = "", []
        return rest

    def _lead(self) -> str:
        body = self._held.lstrip()
        space = self._held[: len(self._held) - len(body)]
        if body.startswith(OPEN):
            self._held, self._state = body[len(OPEN) :], "inside"
            return space
        if body.startswith(CLOSE):
            # the end of a block that began in the prompt, or nowhere
            self._held = body[len(CLOSE) :]
            return space + self._lead()
        if OPEN.startswith(body) or CLOSE.startswith(body):
            self._held = body
            return space
        self._held, self._state = "", "passing"
        return space + body

    def _skip(self) -> str:
        inside, close, after = self._held.partition(CLOSE)
        if close:
            self._held, self._state, self._thoughts = after, "leading", []
        else:
            border = max(0, len(inside) - len(CLOSE) + 1)
            if self._state == "opened":
                self._thoughts.append(inside[:border])
            self._held = inside[border:]
        return ""


def strip_thinking(text: str, opened: bool = False) -> str:
    """The whole text without its leading think blocks."""
    stripper = ThinkStripper(opened)
    return stripper.feed(text) + stripper.finish()
