"""Tools that a client loads in the middle of a conversation (`defer_loading`, `tool_addition`, `tool_removal`). Pure.

A tool is shown where the conversation finds it, and never in the head of the prompt: the head would change with every
tool that is loaded, and the whole conversation would miss the prefix cache. vLLM itself renders all of `tools` into the
head; its `chat_template_kwargs` may hold other tools for the template, while those of the request are for the parser,
which needs the schemas of all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .blocks import text_block
from .tokens import Body

# the form of a definition that Claude Code's ToolSearch announces to the model
DEFINITION = "<functions>\n<function>{}</function>\n</functions>"
CHANGES = ("tool_addition", "tool_removal")
# Anthropic's servers run this search themselves
_SERVER_SEARCH = "tool_search_tool"


class ToolHistory:
    """The tools of one request, and which of them the conversation has shown so far, from its beginning to its end.

    Call prepare_change and describe in the order of the blocks. tools: as vLLM accepts them, `defer_loading` included.
    """

    def __init__(self, tools: list[Any]) -> None:
        self._known = {tool["name"]: tool for tool in tools if _has_name(tool)}
        # vLLM rejects these in its own words
        self._nameless = [tool for tool in tools if not _has_name(tool)]
        deferred = [name for name, tool in self._known.items() if tool.get("defer_loading") is True]
        # with every tool deferred, the prompt would not even say how a tool is called
        self._deferred = set(deferred) if len(deferred) < len(self._known) else set[str]()
        self._head = [tool for tool in tools if not (_has_name(tool) and tool["name"] in self._deferred)]
        self._shown, self._removed, self._changed = set[str](), set[str](), False

    def describe(self, name: str) -> str:
        """Return what the model reads where a tool is found; its definition is given once."""
        tool = self._known.get(name)
        if tool is None:
            return f"Tool: {name}."
        self._removed.discard(name)
        if name not in self._deferred or name in self._shown:
            return f"The tool {name} can be called."
        self._shown.add(name)
        return f"The tool {name} can be called. Its definition:\n{_render_definition(tool)}"

    def prepare_change(self, block: Mapping[str, Any]) -> Body:
        """Return a `tool_addition` or `tool_removal` as a text block."""
        change = block.get("tool")
        change = change if isinstance(change, Mapping) else {}
        definition = change.get("definition")
        if block.get("type") == "tool_addition" and isinstance(definition, dict) and _has_name(definition):
            return text_block(self._add(definition))
        name = str(change.get("name") or f"set of {change.get('server_name')}")
        if block.get("type") == "tool_addition":
            return text_block(self.describe(name))
        self._changed = True
        self._removed.add(name)
        self._shown.discard(name)
        return text_block(f"The tool {name} is no longer available: do not call it.")

    def _add(self, tool: Body) -> str:
        name = tool["name"]
        same = name in self._shown and self._known.get(name) == tool
        self._changed = True
        self._known[name] = tool
        if not same:
            self._shown.discard(name)
            self._deferred.add(name)
        return self.describe(name)

    @property
    def differs(self) -> bool:
        """Whether the tools in the head are others than those that may be called."""
        return bool(self._deferred) or self._changed

    def head(self) -> list[Any]:
        """Return the tools that the head of the prompt has; they depend on no message."""
        return self._head

    def callable(self, *, only_shown: bool) -> list[Any]:
        """Return the tools whose calls are parsed. only_shown: without those that the model has not been shown."""
        hidden = self._removed | (self._deferred - self._shown if only_shown else set[str]())
        kept = [tool for name, tool in self._known.items() if name not in hidden]
        bare = [{key: value for key, value in tool.items() if key != "defer_loading"} for tool in kept]
        return [*self._nameless, *bare]


def has_server_search(tools: list[Any]) -> bool:
    """Return whether the client relies on Anthropic's own tool search: then no one here would find deferred tools."""
    return any(isinstance(tool, dict) and str(tool.get("type")).startswith(_SERVER_SEARCH) for tool in tools)


def template_tools(tools: list[Any]) -> list[Body]:
    """Return tools for `chat_template_kwargs`, equal to what vLLM makes of the `tools` of a request."""
    return [{"type": "function", "function": _function(tool)} for tool in tools if isinstance(tool, dict)]


def _function(tool: Mapping[str, Any]) -> Body:
    schema = tool.get("input_schema")
    parameters = {**schema, "type": "object"} if isinstance(schema, dict) and "type" not in schema else schema
    strict = {} if tool.get("strict") is None else {"strict": tool["strict"]}
    return {"name": tool.get("name"), "description": tool.get("description"), "parameters": parameters, **strict}


def _render_definition(tool: Mapping[str, Any]) -> str:
    shown = {"description": tool.get("description"), "name": tool["name"], "parameters": tool.get("input_schema")}
    return DEFINITION.format(json.dumps({k: v for k, v in shown.items() if v is not None}, ensure_ascii=False))


def _has_name(tool: object) -> bool:
    return isinstance(tool, Mapping) and isinstance(tool.get("name"), str)
