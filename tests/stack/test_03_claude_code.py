"""The real Claude Code, headless, against the stack: a tool call writes a file, the final answer arrives."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from .conftest import SCRIPTED
from .harness import Finished, Stack, claude_binary


def exported(stack: Stack) -> dict[str, str]:
    """The variables that `./bouchet env` prints, as a shell reads them."""
    done = stack.bouchet("env", "--model", SCRIPTED)
    assert done.status == 0, done.output
    script = f"{done.stdout}\nenv -0"
    shell = subprocess.run(["bash", "-c", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, timeout=20)
    pairs = (item.split("=", 1) for item in shell.stdout.decode().split("\0") if "=" in item)
    return {name: value for name, value in pairs if re.match(r"ANTHROPIC_|CLAUDE_|API_|DISABLE_", name)}


def run_claude(stack: Stack, home: Path, prompt: str, *flags: str) -> Finished:
    """`claude -p` with nothing of this machine's own settings."""
    work = home / "work"
    work.mkdir(parents=True, exist_ok=True)
    environ = {"HOME": str(home), "PATH": "/usr/bin:/bin", "IS_SANDBOX": "1", "TERM": "dumb", **exported(stack)}
    argv = [claude_binary(), "-p", prompt, "--output-format", "json", "--dangerously-skip-permissions", *flags]
    done = subprocess.run(
        argv, cwd=work, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def test_env_names_the_real_window(stack: Stack, scripted: dict[str, Any]) -> None:
    environ = exported(stack)
    assert environ["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(scripted["jobs"][-1]["window"])
    assert environ["ANTHROPIC_BASE_URL"] == stack.proxy_url
    assert environ["ANTHROPIC_MODEL"] == SCRIPTED


def test_a_prompt_gets_its_answer(stack: Stack, scripted: dict[str, Any], tmp_path: Path) -> None:
    done = run_claude(stack, tmp_path, "SAY[the node says hello]")
    assert done.status == 0, done.output
    assert json.loads(done.stdout)["result"] == "the node says hello"


def test_a_tool_call_writes_a_file(stack: Stack, scripted: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "work" / "hello.txt"
    call = json.dumps({"file_path": str(target), "content": "written by the model\n"})
    done = run_claude(stack, tmp_path, f"CALL[Write {call}]")
    assert done.status == 0, done.output
    assert target.read_text() == "written by the model\n"
    answer = json.loads(done.stdout)
    assert answer["num_turns"] >= 2 and "The tool returned:" in answer["result"], done.stdout
