"""The real Claude Code, headless, as `bouchet env` sets it up, and what it reports."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.stack.harness import Stack, claude_binary

OURS = re.compile(r"ANTHROPIC_|CLAUDE_|API_|DISABLE_")
RUN_TIMEOUT_S = 240


def exported(stack: Stack, model: str) -> dict[str, str]:
    """Return the variables that `./bouchet env` prints, as a shell reads them."""
    done = stack.bouchet("env", "--model", model)
    assert done.status == 0, done.output
    script = f"{done.stdout}\nenv -0"
    shell = subprocess.run(["bash", "-c", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, timeout=20)
    pairs = (item.split("=", 1) for item in shell.stdout.decode().split("\0") if "=" in item)
    return {name: value for name, value in pairs if OURS.match(name)}


@dataclass(frozen=True)
class Report:
    """What one run of `claude -p` printed, an object a line, and its exit status."""

    status: int
    lines: list[dict[str, Any]]
    stderr: str

    @property
    def final(self) -> dict[str, Any]:
        """The last line: the result."""
        assert self.lines and self.lines[-1]["type"] == "result", f"no result: {self.lines[-3:]} {self.stderr}"
        return self.lines[-1]

    @property
    def result(self) -> str:
        """The final answer of a run that went well."""
        assert self.status == 0 and not self.final["is_error"], f"{self.final} {self.stderr}"
        return str(self.final["result"])

    @property
    def session(self) -> str:
        """The session's id, for --resume."""
        return str(self.final["session_id"])

    def blocks(self, kind: str) -> Iterator[dict[str, Any]]:
        """Return the content blocks of a type in the session's messages, including subagents."""
        for line in self.lines:
            content = line.get("message", {}).get("content") if line["type"] in ("assistant", "user") else None
            if isinstance(content, list):
                yield from (block for block in content if block["type"] == kind)

    def system(self, subtype: str) -> list[dict[str, Any]]:
        """Return what Claude Code reported about itself."""
        return [line for line in self.lines if line["type"] == "system" and line["subtype"] == subtype]


@dataclass
class ClaudeCode:
    """A person with an empty home: `run` starts `claude -p` in their folder `work`."""

    home: Path
    environ: Mapping[str, str]
    flags: list[str] = field(default_factory=list)
    timeout_s: float = RUN_TIMEOUT_S

    @property
    def work(self) -> Path:
        """The project's folder."""
        folder = self.home / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.work / name
        path.write_text(text)
        return path

    def run(self, prompt: str | list[dict[str, Any]], *flags: str, **environ: str) -> Report:
        """Run Claude Code once; a prompt that is a list of content blocks goes in as stream-json."""
        argv = [claude_binary(), "-p", "--output-format", "stream-json", "--verbose", "--dangerously-skip-permissions"]
        given = None
        if isinstance(prompt, str):
            argv.append(prompt)
        else:
            given = json.dumps({"type": "user", "message": {"role": "user", "content": prompt}}) + "\n"
            argv += ["--input-format", "stream-json"]
        base = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "IS_SANDBOX": "1", "TERM": "dumb"}
        done = subprocess.run(
            [*argv, *self.flags, *flags],
            cwd=self.work,
            env={**base, **self.environ, **environ},
            input=given or "",
            capture_output=True,
            text=True,
            timeout=self.timeout_s,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return Report(done.returncode, lines, done.stderr)


def call(tool: str, **arguments: Any) -> str:
    """Return the scripted model's directive for a tool call."""
    return f"CALL[{tool} {json.dumps(arguments)}]"
