"""Environment variables of Claude Code."""

from __future__ import annotations

import pytest
from bouchet_cli.integrations.claude_env import (
    answer_tokens,
    claude_environment,
    foreign_variables,
    name_warning,
    shell_lines,
    tools_warning,
    window_warning,
    without_tools,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.samples import deployment


def test_tier_of_another_deployment_uses_that_deployment() -> None:
    big = deployment("big")
    small = deployment("small", request={"serve_as": ["haiku"]}, jobs=[{"window": 32768}])
    alone = claude_environment(big, 262144, "http://p", "k")
    assert alone["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "262144"
    assert alone["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "32000"
    both = claude_environment(big, 262144, "http://p", "k", [small, big])
    assert both["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "bouchet-small"
    assert both["ANTHROPIC_DEFAULT_OPUS_MODEL"] == both["ANTHROPIC_MODEL"] == "bouchet-big"
    assert both["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "32768"
    assert "/" not in both["ANTHROPIC_MODEL"]


@pytest.mark.parametrize(
    ("traits", "is_on"), [({}, True), ({"tool_search": True}, True), ({"tool_search": False}, False)]
)
def test_catalog_decides_whether_tools_are_searched(traits: dict[str, bool], is_on: bool) -> None:
    found = claude_environment(deployment("a", traits={"tool_parser": "hermes", **traits}), 65536, "http://p", "k")
    assert found["ENABLE_TOOL_SEARCH"] == ("true" if is_on else "false")
    assert ("CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS" in found) is not is_on
    assert "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS" in {**found, **dict.fromkeys(foreign_variables((), found))}


def test_name_warning_only_for_names_that_claude_code_knows() -> None:
    assert "--name" in (name_warning("claude-mine") or "")
    assert name_warning("bouchet-qwen3-32b") is None


def test_tools_warning_only_for_broken_tools() -> None:
    assert "the reason" in (tools_warning("the reason") or "")
    assert tools_warning("") is None


def test_without_tools_respects_the_users_choice() -> None:
    assert without_tools("broken", []) == ["--tools", "", "--strict-mcp-config"]
    assert without_tools("", []) == []
    assert without_tools("broken", ["--tools", "Read"]) == without_tools("broken", ["--tools=Read"]) == []


@given(st.integers(256, 10_485_760))
def test_answer_leaves_most_of_the_window(window: int) -> None:
    answer = answer_tokens(deployment("a"), window)
    assert 0 < answer <= max(window // 4, 1)
    assert (window_warning(window, answer) is None) == (window >= 64_000)


def test_foreign_variables_are_of_other_providers_and_never_own() -> None:
    foreign = ["ANTHROPIC_FOO", "VERTEX_REGION_CLAUDE", "CLAUDE_CODE_USE_X"]
    kept = ["ANTHROPIC_MODEL", "PATH", "CLAUDE_CONFIG_DIR"]
    found = foreign_variables([*foreign, *kept], {"ANTHROPIC_MODEL": "m"})
    assert {*foreign, "ANTHROPIC_API_KEY"} <= set(found)
    assert not set(kept) & set(found)


def test_shell_lines_quote_values_for_their_shell() -> None:
    assert shell_lines({"A": "it's"}, ["B"], "posix") == ["unset B", "export A='it'\"'\"'s'"]
    assert shell_lines({"A": "it's \\"}, ["B"], "fish") == ["set -e B;", "set -gx A 'it\\'s \\\\';"]
