"""What people do with Claude Code, done by the real one against a real vLLM that follows a script."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.stack.clients.claude_code import ClaudeCode, call, exported
from tests.stack.conftest import SCRIPTED
from tests.stack.harness import Stack
from tests.stack.relay import Relay

SHORT, SHORT_WINDOW = "bouchet-short", 49152
# tokens; with Claude Code's own 13,000 two make it compact that knows the window, and four do not fit
FILE_TOKENS = 11_000
# the longest wait for a model of which a stream may show nothing
PING_S = 15.0


@pytest.fixture(scope="module")
def environ(stack: Stack, scripted: dict[str, Any]) -> dict[str, str]:
    return exported(stack, SCRIPTED)


@pytest.fixture
def claude(relay: Relay, environ: dict[str, str], tmp_path: Path) -> ClaudeCode:
    return ClaudeCode(tmp_path, {**environ, "ANTHROPIC_BASE_URL": relay.url})


@pytest.fixture(scope="module")
def short(stack: Stack, scripted: dict[str, Any]) -> Iterator[str]:
    """Launch the scripted model again with a short window, without waiting for it."""
    launch = ("launch", "demo/scripted", "--name", SHORT, "--max-len", str(SHORT_WINDOW), "--partition", "gpu_h200")
    if not any(SHORT in record["names"] for record in stack.deployments()):
        done = stack.bouchet(*launch, "--no-wait", "--json")
        assert done.status == 0, done.output
    yield SHORT
    stack.bouchet("cancel", SHORT)


def long_text(title: str) -> str:
    """Return a text of about FILE_TOKENS tokens."""
    line = "the quick brown fox reads one line of this file and goes on to the next"
    return f"{title}\n" + f"{line}\n" * (FILE_TOKENS // 18)


def pixel() -> str:
    """Return a PNG of one grey pixel, in base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


# First, so that the model is on its way while Claude Code waits for it.
def test_session_waits_for_starting_model(stack: Stack, short: str, claude: ClaudeCode, relay: Relay) -> None:
    report = claude.run("SAY[worth the wait]", "--model", short, ANTHROPIC_MODEL=short)
    assert report.result == "worth the wait"
    waited = 529 in relay.statuses() or b"event: ping" in relay.messages()[0].answer
    ready = datetime.fromisoformat(stack.deployment(short)["jobs"][-1]["since"]["ready"]).timestamp()
    # on a fast machine the model is there before Claude Code asks, or before the first ping
    assert waited or ready <= relay.seen[0].at + PING_S, relay.statuses()
    assert {one.body["model"] for one in relay.messages()} == {short}


def test_session_parallel_tools(claude: ClaudeCode) -> None:
    one, two = claude.write("one.txt", "alpha\n"), claude.write("two.txt", "beta\n")
    tools = [call("Read", file_path=str(one)), call("Read", file_path=str(two)), call("Bash", command="echo gamma")]
    report = claude.run(f"SAY[I look.] {' '.join(tools)} THEN SAY[$RESULTS results]")
    assert report.result == "3 results"
    asked = {block["id"]: block["name"] for block in report.blocks("tool_use")}
    assert sorted(asked.values()) == ["Bash", "Read", "Read"]
    results = {block["tool_use_id"]: str(block["content"]) for block in report.blocks("tool_result")}
    assert results.keys() == asked.keys()
    assert all(any(word in result for result in results.values()) for word in ("alpha", "beta", "gamma")), results


def test_session_edits_file(claude: ClaudeCode) -> None:
    file = claude.write("poem.txt", "roses are red\nviolets are blue\n")
    edit = call("Edit", file_path=str(file), old_string="violets are blue", new_string="the sky is [not] red")
    check = call("Bash", command=f"grep -c sky {file}")
    report = claude.run(f"{call('Read', file_path=str(file))} THEN {edit} THEN {check} THEN SAY[done]")
    assert report.result == "done"
    assert file.read_text() == "roses are red\nthe sky is [not] red\n"
    assert not [block for block in report.blocks("tool_result") if block.get("is_error")]


def test_session_subagent_reports(claude: ClaudeCode, relay: Relay) -> None:
    target = claude.work / "by-the-helper.txt"
    task = f"{call('Write', file_path=str(target), content='here I was')} THEN SAY[the helper has written]"
    agent = call("Agent", description="write", prompt=task, subagent_type="general-purpose", run_in_background=False)
    report = claude.run(f"{agent} THEN SEEN[the helper has written]")
    assert target.read_text() == "here I was"
    result = next(
        str(block["content"]) for block in report.blocks("tool_result") if "helper has" in str(block["content"])
    )
    assert "the helper has written" in result
    assert report.result.startswith("the helper has written: "), report.result
    assert len({json.dumps(one.body["system"]) for one in relay.messages()}) == 2, "no second system prompt was seen"


def test_session_image_in_history_of_text_model(claude: ClaudeCode, relay: Relay) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": pixel()}}
    first = claude.run([{"type": "text", "text": "SAY[nice picture]"}, image])
    assert first.result == "nice picture"
    again = claude.run("SEEN[An image was here]", "--resume", first.session)
    assert again.result == "An image was here: 1"
    assert '"type": "image"' in json.dumps(relay.messages()[-1].body["messages"])


def test_session_tool_reads_image(claude: ClaudeCode) -> None:
    picture = claude.work / "dot.png"
    picture.write_bytes(base64.b64decode(pixel()))
    report = claude.run(f"{call('Read', file_path=str(picture))} THEN SEEN[An image was here]")
    assert report.result == "An image was here: 1"


def test_session_resumes_on_other_model(stack: Stack, short: str, claude: ClaudeCode, relay: Relay) -> None:
    stack.wait_for_phase(short, "ready")
    first = claude.run("SAY[the word is heron]")
    resumed = claude.run("SEEN[the word is heron]", "--resume", first.session)
    assert resumed.result == "the word is heron: 2"
    switched = claude.run("SEEN[the word is heron]", "--resume", first.session, "--model", short)
    assert switched.result == "the word is heron: 3"
    assert [one.body["model"] for one in relay.messages()] == [SCRIPTED, SCRIPTED, short]
    assert short in switched.final["modelUsage"]


@pytest.mark.parametrize(
    ("announced", "parts"),
    [
        pytest.param(SHORT_WINDOW, 2, id="in time"),
        pytest.param(200_000, 4, id="after a refusal", marks=pytest.mark.long),
    ],
)
def test_session_longer_than_window_compacts(
    stack: Stack, short: str, claude: ClaudeCode, relay: Relay, announced: int, parts: int
) -> None:
    """Run with the real window, where the client compacts in time, and with a larger one, where the proxy makes it."""
    stack.wait_for_phase(short, "ready")
    files = [claude.write(f"part-{number}.txt", long_text(f"part {number}")) for number in range(parts)]
    target = claude.work / "end.txt"
    steps = [call("Read", file_path=str(file)) for file in files]
    steps += [call("Write", file_path=str(target), content="all parts read"), "SAY[the end]"]
    report = claude.run(
        " THEN ".join(steps), "--model", short, ANTHROPIC_MODEL=short, CLAUDE_CODE_MAX_CONTEXT_TOKENS=str(announced)
    )
    assert report.result == "the end", relay.statuses()
    assert target.read_text() == "all parts read"
    assert report.system("compact_boundary"), [line["type"] for line in report.lines]
    refused = [one for one in relay.seen if one.status == 400]
    assert all(b"prompt is too long" in one.answer for one in refused)
    assert bool(refused) == (announced > SHORT_WINDOW), relay.statuses()
