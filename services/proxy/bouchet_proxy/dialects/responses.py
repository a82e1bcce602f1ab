"""Rules for the bodies of OpenAI `/v1/responses` requests; vLLM serves that endpoint itself. Pure."""

from __future__ import annotations

from typing import Any

from bouchet_core.deployments import Traits

from .anthropic import IMAGE_NOTE, MISSING_TOOLS_NOTE, NO_TOOLS_NOTE
from .tokens import Body, clamp_tokens, default_tokens

_FIELDS = """
    model input instructions max_output_tokens temperature top_p stream tools tool_choice parallel_tool_calls text
    reasoning user include store truncation
"""
FIELDS = frozenset(_FIELDS.split())
# a tool that the client runs; the others (web_search, code_interpreter, ...) run on OpenAI's servers
CLIENT_TOOL = "function"


def prepare_responses(body: Body, window: int | None, traits: Traits) -> Body:
    """Return a `/v1/responses` body as vLLM accepts it."""
    kept = {key: value for key, value in body.items() if key in FIELDS and value is not None}
    kept = clamp_tokens(default_tokens(kept, "max_output_tokens", traits.max_output, window), window)
    if traits.thinking in ("none", "always"):
        kept.pop("reasoning", None)
    if isinstance(kept.get("input"), list) and not traits.vision:
        kept["input"] = [_replace_item_images(item) for item in kept["input"]]
    return _keep_client_tools(kept, traits)


def _keep_client_tools(body: Body, traits: Traits) -> Body:
    tools = body.get("tools")
    if not isinstance(tools, list):
        return {key: value for key, value in body.items() if key not in ("tools", "tool_choice")}
    kept = [tool for tool in tools if _is_client_tool(tool)] if traits.tool_parser else []
    missing = [tool for tool in tools if isinstance(tool, dict) and not _is_client_tool(tool)]
    if tools and not traits.tool_parser:
        body = _add_instruction(body, NO_TOOLS_NOTE)
    elif missing:
        names = ", ".join(str(tool.get("name") or tool.get("type")) for tool in missing)
        body = _add_instruction(body, MISSING_TOOLS_NOTE.format(names))
    rest = {key: value for key, value in body.items() if key not in ("tools", "tool_choice")}
    if not kept:
        return rest
    choice = body.get("tool_choice")
    return {**rest, "tools": kept, **({"tool_choice": choice} if _is_valid_choice(choice, kept) else {})}


def _is_client_tool(tool: object) -> bool:
    return isinstance(tool, dict) and tool.get("type") == CLIENT_TOOL


def _is_valid_choice(choice: object, tools: list[Any]) -> bool:
    """Return whether a choice can be kept: a string, or a tool that is still there."""
    if isinstance(choice, dict):
        return choice.get("type") == CLIENT_TOOL and choice.get("name") in [tool.get("name") for tool in tools]
    return isinstance(choice, str)


def _add_instruction(body: Body, note: str) -> Body:
    given = body.get("instructions")
    return {**body, "instructions": f"{given}\n\n{note}" if isinstance(given, str) and given else note}


def _replace_item_images(item: Any) -> Any:
    """Return an item of the input with notes for its images; tool results have theirs under `output`."""
    if not isinstance(item, dict):
        return item
    lists = {
        key: [_replace_image(part) for part in item[key]]
        for key in ("content", "output")
        if isinstance(item.get(key), list)
    }
    return {**item, **lists}


def _replace_image(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") == "input_image":
        return {"type": "input_text", "text": IMAGE_NOTE}
    return part
