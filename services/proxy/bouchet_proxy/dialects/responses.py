"""What a `/v1/responses` request may contain when it reaches vLLM, which speaks it itself. Pure."""

from __future__ import annotations

from typing import Any

from bouchet_core.deployments import Traits

from .anthropic import NO_IMAGES
from .token_limits import Body, clamp_tokens, default_tokens

_FIELDS = """
    model input instructions max_output_tokens temperature top_p stream tools tool_choice parallel_tool_calls text
    reasoning user include store truncation
"""
FIELDS = frozenset(_FIELDS.split())
# a tool that the client runs; the others (web_search, code_interpreter, ...) run on OpenAI's servers
RUNNABLE = "function"


def prepare_responses(body: Body, window: int | None, traits: Traits) -> Body:
    """A `/v1/responses` body as vLLM takes it."""
    kept = {key: value for key, value in body.items() if key in FIELDS and value is not None}
    kept = clamp_tokens(default_tokens(kept, "max_output_tokens", traits.max_output, window), window)
    if traits.thinking in ("none", "always"):
        kept.pop("reasoning", None)
    if isinstance(kept.get("input"), list) and not traits.vision:
        kept["input"] = [_text_only(item) for item in kept["input"]]
    return _with_known_tools(kept, traits)


def _with_known_tools(body: Body, traits: Traits) -> Body:
    tools = body.get("tools")
    if not isinstance(tools, list):
        return {key: value for key, value in body.items() if key not in ("tools", "tool_choice")}
    kept = [tool for tool in tools if _runs(tool)] if traits.tool_parser else []
    missing = [tool for tool in tools if isinstance(tool, dict) and not _runs(tool)]
    if tools and not traits.tool_parser:
        body = _noted(body, "Tools are not available with this model: answer in words.")
    elif missing:
        names = ", ".join(str(tool.get("name") or tool.get("type")) for tool in missing)
        body = _noted(body, f"These tools are not available here: {names}.")
    rest = {key: value for key, value in body.items() if key not in ("tools", "tool_choice")}
    if not kept:
        return rest
    choice = body.get("tool_choice")
    return {**rest, "tools": kept, **({"tool_choice": choice} if _fits(choice, kept) else {})}


def _runs(tool: object) -> bool:
    return isinstance(tool, dict) and tool.get("type") == RUNNABLE


def _fits(choice: object, tools: list[Any]) -> bool:
    """Whether a choice can be kept: a word, or a tool that is still there."""
    if isinstance(choice, dict):
        return choice.get("type") == RUNNABLE and choice.get("name") in [tool.get("name") for tool in tools]
    return isinstance(choice, str)


def _noted(body: Body, note: str) -> Body:
    said = body.get("instructions")
    return {**body, "instructions": f"{said}\n\n{note}" if isinstance(said, str) and said else note}


def _text_only(item: Any) -> Any:
    """An item of the input, its images as a note; results of tools carry theirs under `output`."""
    if not isinstance(item, dict):
        return item
    changed = {
        key: [_part(part) for part in item[key]] for key in ("content", "output") if isinstance(item.get(key), list)
    }
    return {**item, **changed}


def _part(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") == "input_image":
        return {"type": "input_text", "text": NO_IMAGES}
    return part
