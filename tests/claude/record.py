"""Records the requests of several versions of Claude Code in tests/proxy/recorded/*.json, with filler for all texts.

    .venv/bin/python -m tests.claude.record [VERSION ...]

Each version is installed by npm into a folder of its own, driven headless against the fake vLLM, and thrown away.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.claude.recordings import RECORDED, anonymize, pack
from tests.fakes.vllm.server import FakeVLLM, serve_vllm

ROOT = Path(__file__).parents[2]
PACKAGE = "@anthropic-ai/claude-code"
VERSIONS = ("1.0.128", "2.0.77", "2.1.98", "2.1.330", "2.1.332")
KEY, MODEL = "key-of-the-recorder", "tiny"
HEADERS = ("anthropic-beta", "anthropic-version", "user-agent", "x-app")
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABc3UBGAAAAABJRU5ErkJggg=="  # one black point
)


def main(versions: list[str]) -> int:
    """Record each version. Return 1 if one failed."""
    failed = 0
    RECORDED.mkdir(exist_ok=True)
    for version in versions:
        try:
            requests = record(version)
        except (subprocess.SubprocessError, OSError) as exc:
            print(f"{version}: {exc}", file=sys.stderr)
            failed = 1
            continue
        target = RECORDED / f"claude-code-{version}.json"
        target.write_text(json.dumps({"client": f"Claude Code {version}", "requests": pack(requests)}, indent=0) + "\n")
        print(f"{target.relative_to(ROOT)}: {len(requests)} requests, {target.stat().st_size} bytes")
    return failed


def record(version: str) -> list[dict[str, Any]]:
    """Return the requests of this version in several short sessions."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        binary = install(version, Path(folder))
        with serve_vllm(FakeVLLM((MODEL,), KEY, window=1_000_000)) as vllm:
            converse(binary, Path(folder), f"http://127.0.0.1:{vllm.port}")
    return distinct([anonymize_request(request) for request in vllm.requests])


def install(version: str, folder: Path) -> Path:
    """Install that version. Return its program."""
    prefix = folder / "npm"
    argv = ["npm", "install", "--prefix", str(prefix), "--no-audit", "--no-fund", f"{PACKAGE}@{version}"]
    subprocess.run(argv, check=True, capture_output=True, timeout=300)
    installer = prefix / "node_modules" / PACKAGE / "install.cjs"
    if installer.exists():
        subprocess.run(["node", str(installer)], cwd=prefix, check=True, capture_output=True, timeout=120)
    return prefix / "node_modules/.bin/claude"


def converse(binary: Path, folder: Path, url: str) -> None:
    """Run sessions with parallel tools, a second turn with an image, a subagent (by both names), and a tool search."""
    work = folder / "work"
    work.mkdir()
    (work / "one.txt").write_text("alpha\n")
    read = f"CALL[Read {json.dumps({'file_path': str(work / 'one.txt')})}]"
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    subagent = {"description": "look", "prompt": "SAY[seen]", "subagent_type": "general-purpose"}
    stream = ["--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
    _run_claude(binary, folder, url, f"{read} {read.replace('Read', 'Glob').replace('file_path', 'pattern')}")
    turn = {"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": "SAY[nice]"}, image]}}
    _run_claude(binary, folder, url, "", "--continue", *stream, given=json.dumps(turn) + "\n")
    for name in ("Agent", "Task"):
        _run_claude(binary, folder, url, f"CALL[{name} {json.dumps(subagent)}]")
    _run_claude(binary, folder, url, f"CALL[ToolSearch {json.dumps({'query': 'select:WebFetch'})}]")


def _run_claude(binary: Path, folder: Path, url: str, prompt: str, *flags: str, given: str = "") -> None:
    environ = {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "IS_SANDBOX": "1",
        "TERM": "dumb",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": KEY,
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
    }
    argv = [str(binary), "-p", *([prompt] if prompt else []), "--dangerously-skip-permissions", *flags]
    done = subprocess.run(
        argv, cwd=folder / "work", env=environ, input=given, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        print(f"{binary.name} ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}", file=sys.stderr)


def anonymize_request(request: dict[str, Any]) -> dict[str, Any]:
    """Return the request without texts, names and ids of this machine."""
    headers = {name.lower(): value for name, value in request["headers"].items() if name.lower() in HEADERS}
    return {"path": request["path"], "headers": headers, "body": anonymize(request["body"])}


def distinct(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first request with each set of fields, tools, and blocks of its messages."""
    found: dict[str, dict[str, Any]] = {}
    for request in requests:
        body = request["body"]
        tools = sorted(tool["name"] for tool in body.get("tools", ()))
        turns = [(turn["role"], _kinds(turn["content"])) for turn in body["messages"]]
        found.setdefault(json.dumps([body["model"], sorted(body), tools, turns]), request)
    return list(found.values())


def _kinds(content: Any) -> list[str] | str:
    return [block["type"] for block in content] if isinstance(content, list) else ""


if __name__ == "__main__":
    if not shutil.which("npm"):
        sys.exit("npm is not installed")
    sys.exit(main(sys.argv[1:] or list(VERSIONS)))
