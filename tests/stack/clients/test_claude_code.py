"""The real Claude Code, headless, against the stack: a tool call writes a file, the final answer arrives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stack.clients.claude_code import ClaudeCode, call, exported
from tests.stack.conftest import SCRIPTED
from tests.stack.harness import Stack


@pytest.fixture
def claude(stack: Stack, scripted: dict[str, Any], tmp_path: Path) -> ClaudeCode:
    return ClaudeCode(tmp_path, exported(stack, SCRIPTED))


def test_env_has_real_window(stack: Stack, scripted: dict[str, Any]) -> None:
    environ = exported(stack, SCRIPTED)
    assert environ["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(scripted["jobs"][-1]["window"])
    assert environ["ANTHROPIC_BASE_URL"] == stack.proxy_url
    assert environ["ANTHROPIC_MODEL"] == SCRIPTED


def test_print_mode_answers(claude: ClaudeCode) -> None:
    assert claude.run("SAY[the node says hello]").result == "the node says hello"


def test_tool_call_writes_file(claude: ClaudeCode) -> None:
    target = claude.work / "hello.txt"
    report = claude.run(call("Write", file_path=str(target), content="written by the model\n"))
    assert report.result.startswith("The tool returned:")
    assert target.read_text() == "written by the model\n"
    assert report.final["num_turns"] >= 2
