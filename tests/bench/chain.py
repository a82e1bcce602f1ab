"""One request through the whole chain against the same request to vLLM on its node, interleaved."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from typing import Any
from urllib.parse import urlsplit

from tests.stack.harness import Stack

from .figures import Figure, spread

MODEL = "bouchet-scripted"
BODY_BYTES = 77_000
TOOLS = 24
ROUNDS = 40
TARGET_MS = 40.0
EVENTS = 100


def claude_body(text: str, max_tokens: int = 8) -> bytes:
    """Make a streaming request of the size and shape of Claude Code's first turn, with filler text."""
    sentence = "The quick brown fox reads the file, edits the line and runs the test again. "
    schema = {"type": "object", "properties": {"path": {"type": "string", "description": sentence * 3}}}
    tools = [{"name": f"Tool{n}", "description": sentence * 20, "input_schema": schema} for n in range(TOOLS)]
    body: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": max_tokens,
        "stream": True,
        "system": [{"type": "text", "text": ""}],
        "tools": tools,
        "messages": [{"role": "user", "content": text}],
    }
    missing = BODY_BYTES - len(json.dumps(body))
    body["system"][0]["text"] = sentence * (missing // len(sentence))
    return json.dumps(body).encode()


def chat_body(text: str, max_tokens: int = 8) -> bytes:
    """Make the same request as one of OpenAI's chats."""
    body = json.loads(claude_body(text, max_tokens))
    tools = [
        {"type": "function", "function": {**{k: tool[k] for k in ("name", "description")}, "parameters": schema}}
        for tool in body["tools"]
        if (schema := tool["input_schema"])
    ]
    system = {"role": "system", "content": body.pop("system")[0]["text"]}
    return json.dumps({**body, "tools": tools, "messages": [system, *body["messages"]]}).encode()


def ask(base: str, key: str, body: bytes) -> tuple[float, float, int]:
    """Return the seconds to the first byte of the first event and to the last byte, and the number of events."""
    place = urlsplit(base)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
    headers = {"Authorization": f"Bearer {key}", "content-type": "application/json", "anthropic-version": "2023-06-01"}
    started = time.perf_counter()
    connection.request("POST", "/v1/messages", body, headers)
    answer = connection.getresponse()
    first = answer.read(1)
    first_s = time.perf_counter() - started
    rest = answer.read()
    total_s = time.perf_counter() - started
    connection.close()
    events = (first + rest).count(b"event: content_block_delta")
    assert answer.status == 200 and events, (first + rest)[:500]
    return first_s, total_s, events


def places(stack: Stack) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return address and key of the proxy, and of vLLM on its node."""
    job = stack.deployment(MODEL)["jobs"][-1]
    networks = stack.container(f"demo-{job['node']}").attrs["NetworkSettings"]["Networks"]
    address = next(iter(networks.values()))["IPAddress"]
    key = stack.slurm("cat", f"/home/researcher/bouchet-llm/jobs/{job['name']}/key").strip()
    return (stack.proxy_url, stack.key), (f"http://{address}:{job['port']}", key)


def compare_first_byte(stack: Stack) -> list[Figure]:
    """Measure the added time to first byte for a Claude Code body."""
    chain, direct = places(stack)
    body = claude_body("SAY[ok]")
    for place in (chain, direct):
        ask(*place, body)
    through, straight = [], []
    for _ in range(ROUNDS):
        through.append(ask(*chain, body)[0])
        straight.append(ask(*direct, body)[0])
    added = (statistics.median(through) - statistics.median(straight)) * 1000
    note = f"chain {spread(through)}; vLLM on its node {spread(straight)}"
    return [Figure(f"added to first byte, {len(body) // 1000} KB", added, "ms", TARGET_MS, note)]


def streamed_rate(stack: Stack) -> list[Figure]:
    """Measure tokens per second of one long stream, through the chain and direct."""
    chain, direct = places(stack)
    body = claude_body(f"COUNT[{EVENTS}]", max_tokens=4 * EVENTS)
    rates: dict[str, list[float]] = {"chain": [], "direct": []}
    for _ in range(3):
        for name, place in (("chain", chain), ("direct", direct)):
            first_s, total_s, events = ask(*place, body)
            rates[name].append(events / (total_s - first_s))
    return [
        Figure("stream through the chain", statistics.median(rates["chain"]), "ev/s"),
        Figure("stream straight from vLLM", statistics.median(rates["direct"]), "ev/s"),
    ]
