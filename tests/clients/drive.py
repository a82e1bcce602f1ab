"""Drives real clients, configured with what `bouchet env --for NAME` prints, against a proxy with a scripted model.

Each gets an empty home, a tool to call, and has to end with the model's answer.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bouchet_cli.integrations.snippets import CLIENTS, SnippetValues, snippet

from . import install
from .programs import mcp_server

WRITTEN = "written by the model"
TIMEOUT_S = 300
CLAUDE_VERSIONS = ("1.0.128", "2.0.77", "2.1.98", "2.1.332")


class ClientFailedError(Exception):
    """A client did not do what was asked of it; the message has the end of what it printed."""


@dataclass(frozen=True)
class Served:
    """A proxy, its key, and a scripted model behind it. window: in tokens."""

    url: str
    key: str
    model: str
    window: int

    def values(self, program: Path) -> SnippetValues:
        """Return what `bouchet env` puts into a client's configuration."""
        return SnippetValues(self.model, self.url, self.window, 4096, True, False, str(program))


@dataclass(frozen=True)
class Home:
    """A person's home, with a folder for work and a `bouchet` that prints the key."""

    folder: Path
    served: Served

    @property
    def work(self) -> Path:
        """The project's folder."""
        work = self.folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        return work

    @property
    def hello(self) -> Path:
        """The file that the model writes by a tool."""
        return self.work / "hello.txt"

    def snippet(self, client: str) -> str:
        """Return what `bouchet env --for CLIENT` prints."""
        program = self.work.parent / "bouchet"
        program.write_text(f"#!/bin/sh\necho {shlex.quote(self.served.key)}\n")
        program.chmod(0o755)
        return snippet(CLIENTS[client], self.served.values(program))

    def exported(self, client: str) -> dict[str, str]:
        """Return the variables that a shell has after the printed lines."""
        lines = self.snippet(client) + "\nenv -0"
        done = subprocess.run(
            ["sh", "-eu", "-c", lines], env=self.environ(), capture_output=True, check=True, timeout=60
        )
        return dict(item.split("=", 1) for item in done.stdout.decode().split("\0") if "=" in item)

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment of a client: nothing of this machine but the path to programs."""
        base = {"HOME": str(self.folder), "PATH": os.environ["PATH"], "TERM": "dumb", "LANG": "C.UTF-8", "CI": "1"}
        return {**base, **more}

    def run(self, argv: Sequence[str], environ: Mapping[str, str], given: str = "") -> str:
        """Run a client in the project's folder, and return what it printed. Raises ClientFailedError."""
        done = subprocess.run(
            [*argv],
            cwd=self.work,
            env={**self.environ(), **environ},
            input=given,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        if done.returncode:
            raise ClientFailedError(f"exit status {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
        return done.stdout


@dataclass(frozen=True)
class Client:
    """A client: what it is called, its version, and how it is driven."""

    name: str
    version: Callable[[], str]
    drive: Callable[[Home], None]


def expect(condition: bool, output: str) -> None:
    """Raise ClientFailedError with the end of the output unless the condition holds."""
    if not condition:
        raise ClientFailedError(f"unexpected: {output[-1500:]!r}")


def call(tool: str, **arguments: object) -> str:
    """Return the scripted model's directive for a tool call."""
    return f"CALL[{tool} {json.dumps(arguments)}]"


# programs of npm


def drive_codex(home: Home) -> None:
    """Run a tool loop, go on with the session, once more after it was compacted, and call a tool of an MCP server."""
    argv, environ = _configured_codex(home)
    home.run([*argv, call("exec_command", cmd=f"printf '{WRITTEN}' > {home.hello}")], environ)
    expect(home.hello.is_file() and home.hello.read_text() == WRITTEN, "codex wrote no file")
    printed = home.run([*argv, "resume", "--last", "SAY[resumed here]"], environ)
    expect("resumed here" in _messages(printed), printed)
    # a limit below what is there: the client has the conversation summed up first
    compact = ["-c", "model_auto_compact_token_limit=20"]
    printed = home.run([*argv, *compact, "resume", "--last", "SAY[after compaction]"], environ)
    expect("after compaction" in _messages(printed), printed)
    rollouts = [path.read_text() for path in Path(environ["CODEX_HOME"]).rglob("*.jsonl")]
    expect(any('"compacted"' in text for text in rollouts), "codex did not compact")
    call_codex_mcp(home, argv, environ)


def call_codex_mcp(home: Home, argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Have Codex call a tool of an MCP server: it sends those within a namespace."""
    server = {"command": sys.executable, "args": [str(Path(mcp_server.__file__))]}
    options = [f"mcp_servers.tides.{name}={json.dumps(value)}" for name, value in server.items()]
    flags = [flag for option in options for flag in ("-c", option)]
    printed = home.run([*argv, *flags, call("mcp__tides__tide", at="the pier")], environ)
    done = [json.loads(line)["item"] for line in printed.splitlines() if '"item.completed"' in line]
    called = [item for item in done if item["type"] == "mcp_tool_call"]
    expect([(item["tool"], item["status"]) for item in called] == [("tide", "completed")], printed)
    expect(mcp_server.ANSWER in json.dumps(called[0]["result"]), printed)


def ask_codex(home: Home, prompt: str) -> list[str]:
    """Ask once; return the messages that it shows. Raises ClientFailedError."""
    argv, environ = _configured_codex(home)
    return _messages(home.run([*argv, prompt], environ))


def _configured_codex(home: Home) -> tuple[list[str], dict[str, str]]:
    """Write Codex's configuration; return how it is started, and its environment."""
    folder = home.folder / ".codex"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(home.snippet("codex") + "\n")
    flags = ["--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    environ = {"CODEX_HOME": str(folder), "BOUCHET_API_KEY": home.served.key}
    return [str(install.codex_program()), "exec", *flags], environ


def _messages(printed: str) -> list[str]:
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    items = [line["item"] for line in lines if line.get("type") == "item.completed"]
    return [item["text"] for item in items if item["type"] == "agent_message"]


def drive_gemini(home: Home) -> None:
    """Run a tool loop."""
    argv = [*install.gemini_argv(), "--yolo", "--skip-trust", "-p"]
    environ = home.exported("gemini")
    home.run([*argv, call("write_file", file_path=str(home.hello), content=WRITTEN)], environ)
    expect(home.hello.is_file() and home.hello.read_text().strip() == WRITTEN, "gemini wrote no file")
    printed = home.run([*argv, "SAY[the model says hello]"], environ)
    expect("the model says hello" in printed, printed)


def drive_opencode(home: Home) -> None:
    """Run a tool loop."""
    (home.work / "opencode.json").write_text(home.snippet("opencode"))
    quiet = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    environ = {"BOUCHET_API_KEY": home.served.key, **quiet}
    # an argument would be sent in quotes
    argv = [str(install.opencode_program()), "run"]
    home.run(argv, environ, call("write", filePath=str(home.hello), content=WRITTEN))
    expect(home.hello.is_file() and home.hello.read_text().strip() == WRITTEN, "opencode wrote no file")
    printed = home.run(argv, environ, "SAY[the model says hello]")
    expect("the model says hello" in printed, printed)


def drive_claude(version: str) -> Callable[[Home], None]:
    """Return what runs a tool loop with that version of Claude Code, and resumes its session."""

    def drive(home: Home) -> None:
        served = home.served
        environ = {
            "IS_SANDBOX": "1",
            "ANTHROPIC_BASE_URL": served.url,
            "ANTHROPIC_AUTH_TOKEN": served.key,
            "ANTHROPIC_MODEL": served.model,
            "ANTHROPIC_SMALL_FAST_MODEL": served.model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": served.model,
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(served.window),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        }
        argv = [*install.claude_argv(version), "-p", "--dangerously-skip-permissions"]
        home.run([*argv, call("Write", file_path=str(home.hello), content=WRITTEN)], environ)
        expect(home.hello.is_file() and home.hello.read_text().strip() == WRITTEN, "claude wrote no file")
        printed = home.run([*argv, "--continue", "SAY[resumed here]"], environ)
        expect("resumed here" in printed, printed)

    return drive


# programs of PyPI


def drive_aider(home: Home) -> None:
    """Have aider ask the model for one answer."""
    python = install.python_client("aider")
    quiet = ["--no-git", "--yes-always", "--no-check-update", "--no-analytics", "--no-show-model-warnings"]
    printed = home.run(
        [str(python.parent / "aider"), *quiet, "--message", "SAY[the model says hello]"], home.exported("aider")
    )
    expect("the model says hello" in printed, printed)


def drive_program(name: str) -> Callable[[Home], None]:
    """Return what runs a program of `programs/` with the packages of that lock."""

    def drive(home: Home) -> None:
        program = Path(__file__).parent / "programs" / f"{name.replace('-', '_')}_client.py"
        served = home.served
        environ = {"PROXY_URL": served.url, "PROXY_KEY": served.key, "PROXY_MODEL": served.model}
        printed = home.run([str(install.python_client(name)), str(program)], environ)
        expect(printed.strip().endswith("all right"), printed)

    return drive


def node_version(folder: str, package: str) -> Callable[[], str]:
    """Return what reads a version from the lock of Node's packages."""

    def read() -> str:
        lock = json.loads((install.FOLDER / folder / "package-lock.json").read_text())
        return str(lock["packages"][f"node_modules/{package}"]["version"])

    return read


def python_version(lock: str, package: str) -> Callable[[], str]:
    """Return what reads a version from a lock of Python's packages."""

    def read() -> str:
        lines = (install.FOLDER / "locks" / f"{lock}.lock").read_text().splitlines()
        return next(line.split("==")[1].split()[0] for line in lines if line.startswith(f"{package}=="))

    return read


ALL = (
    Client("Codex", node_version("codex", "@openai/codex"), drive_codex),
    Client("Gemini CLI", node_version("more", "@google/gemini-cli"), drive_gemini),
    Client("opencode", node_version("more", "opencode-linux-x64"), drive_opencode),
    *(
        Client("Claude Code", node_version("more", f"claude-code-{version}"), drive_claude(version))
        for version in CLAUDE_VERSIONS
    ),
    Client("aider", python_version("aider", "aider-chat"), drive_aider),
    Client("LangChain", python_version("langchain", "langchain-openai"), drive_program("langchain")),
    Client("pydantic-ai", python_version("pydantic-ai", "pydantic-ai-slim"), drive_program("pydantic-ai")),
    Client("Google's SDK", python_version("google-genai", "google-genai"), drive_program("google-genai")),
)


def drive_all(served: Served, folder: Path, clients: Sequence[Client] = ALL) -> dict[str, str]:
    """Drive the clients one after another; return what went wrong by name and version, '' for nothing."""
    found = {}
    for index, client in enumerate(clients):
        title = f"{client.name} {client.version()}"
        try:
            client.drive(Home(folder / str(index), served))
            found[title] = ""
        except (ClientFailedError, subprocess.SubprocessError, OSError) as exc:
            found[title] = f"{type(exc).__name__}: {exc}"
    return found
