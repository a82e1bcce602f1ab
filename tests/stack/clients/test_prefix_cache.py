"""A Claude Code session reuses what vLLM has computed for its earlier turns, by vLLM's own account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from bouchet_cli.integrations.claude_env import tool_search_variables
from bouchet_proxy.streams.sse import parse_stream

from tests.stack.clients.claude_code import ClaudeCode, call, exported
from tests.stack.conftest import SCRIPTED
from tests.stack.harness import Stack
from tests.stack.node import Node, prompt_tokens
from tests.stack.relay import Relay, Seen


@pytest.fixture
def node(stack: Stack, scripted: dict[str, Any]) -> Iterator[Node]:
    with Node(stack, scripted) as node:
        yield node


@pytest.fixture
def environ(stack: Stack, scripted: dict[str, Any], relay: Relay) -> dict[str, str]:
    return {**exported(stack, SCRIPTED), "ANTHROPIC_BASE_URL": relay.url}


def usage(one: Seen) -> dict[str, Any]:
    """Return the token counts at the end of the stream."""
    last = next(event for event in parse_stream([one.answer]) if event.name == "message_delta")
    return dict(last.json()["usage"])


def work(claude: ClaudeCode) -> None:
    """Run a session of several turns, each its own process; the second uses tools, one after the other."""
    file = claude.write("poem.txt", "roses are red\n")
    first = claude.run("SAY[I begin.]")
    edit = call("Edit", file_path=str(file), old_string="red", new_string="blue")
    claude.run(f"{call('Read', file_path=str(file))} THEN {edit} THEN SAY[changed]", "--resume", first.session)
    last = claude.run("SAY[and that was all]", "--resume", first.session)
    assert last.result == "and that was all" and file.read_text() == "roses are blue\n"


def test_turns_extend_prefix_and_hit_cache(environ: dict[str, str], relay: Relay, node: Node, tmp_path: Path) -> None:
    claude = ClaudeCode(tmp_path, environ)
    # an earlier conversation in the same folder: Claude Code's system prompt names it
    claude.run("SAY[something else]")
    fresh = len(relay.messages())
    before = node.counters()
    work(claude)
    turns = relay.messages()[fresh:]
    assert len(turns) == 5
    used = [usage(one) for one in turns]
    prompts = [node.tokens(one.body) for one in turns]
    assert [len(prompt) for prompt in prompts] == [prompt_tokens(each) for each in used], "not what vLLM was asked"
    block = node.block()
    for (earlier, later), counts in zip(pairwise(prompts), used[1:], strict=True):
        assert later[: len(earlier)] == earlier
        assert counts["cache_read_input_tokens"] >= len(earlier) // block * block
    later_tokens = sum(len(prompt) for prompt in prompts[1:])
    assert sum(counts["cache_read_input_tokens"] for counts in used[1:]) >= 0.98 * later_tokens
    assert used[0]["cache_read_input_tokens"] >= 0.8 * len(prompts[0])
    assert node.counters().since(before) >= 0.95, "vLLM's counters say otherwise"


def test_billing_header_and_cache_marks_keep_prefix(
    environ: dict[str, str], relay: Relay, node: Node, tmp_path: Path
) -> None:
    """Start Claude Code with its defaults: attribution and every beta."""
    bare = {**environ, "CLAUDE_CODE_ATTRIBUTION_HEADER": "1", "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "0"}
    claude = ClaudeCode(tmp_path, bare)
    first = claude.run("SAY[one]")
    claude.run("SAY[two]", "--resume", first.session)
    one, two = relay.messages()
    assert "x-anthropic-billing-header" in json.dumps(one.body["system"])
    assert node.tokens(two.body)[: len(node.tokens(one.body))] == node.tokens(one.body)
    assert usage(two)["cache_read_input_tokens"] >= 0.98 * prompt_tokens(usage(two))


def test_tools_loaded_midway_keep_prefix(environ: dict[str, str], relay: Relay, node: Node, tmp_path: Path) -> None:
    """Find tools in the middle of a session, call one, and resume: the head of the prompt is always the same."""
    claude = ClaudeCode(tmp_path, environ)
    first = claude.run("SAY[I begin.]")
    find = call("ToolSearch", query="select:WebFetch,CronList")
    before = node.counters()
    report = claude.run(f"{find} THEN {call('CronList')} THEN SAY[done]", "--resume", first.session)
    assert report.result == "done"
    assert not [block for block in report.blocks("tool_result") if block.get("is_error")]
    claude.run("SAY[again]", "--resume", first.session)
    turns = relay.messages()
    compact = json.dumps(turns[0].body, separators=(",", ":"), ensure_ascii=False)
    assert len(compact.encode()) <= 50_000, "the first request carries tools that are not needed"
    assert len(turns[-1].body["tools"]) > len(turns[0].body["tools"])
    prompts = [node.tokens(one.body) for one in turns]
    for earlier, later in pairwise(prompts):
        assert later[: len(earlier)] == earlier
    later_tokens, fresh = sum(map(len, prompts[1:])), len(prompts[-1]) - len(prompts[0])
    reused = sum(usage(one)["cache_read_input_tokens"] for one in turns[1:])
    assert reused >= later_tokens - fresh - node.block() * len(turns)
    assert node.counters().since(before) >= 0.95, "vLLM's counters disagree"


def test_all_tools_at_once_where_the_catalog_has_no_tool_search(
    environ: dict[str, str], relay: Relay, tmp_path: Path
) -> None:
    off = {**environ, **tool_search_variables(enabled=False)}
    assert ClaudeCode(tmp_path, off).run("SAY[all]").result == "all"
    names = [tool["name"] for tool in relay.messages()[0].body["tools"]]
    assert "ToolSearch" not in names and {"WebFetch", "CronList"} <= set(names)
    assert not any(tool.get("defer_loading") for tool in relay.messages()[0].body["tools"])
