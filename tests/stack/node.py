"""vLLM on its node, asked past proxy and tunnel: its counters, and its tokenizer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.anthropic import prepare_messages

from tests.stack.harness import Stack

Body = dict[str, Any]
HITS, QUERIES = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
JOBS = "/home/researcher/bouchet-llm/jobs"


@dataclass(frozen=True)
class Counters:
    """Prompt tokens that were looked up in the prefix cache, and found there."""

    queries: float
    hits: float

    def since(self, before: Counters) -> float:
        """Return the share of cached tokens since an earlier count."""
        return (self.hits - before.hits) / (self.queries - before.queries)


class Node:
    """The vLLM of one deployment."""

    def __init__(self, stack: Stack, deployment: Body) -> None:
        job = deployment["jobs"][-1]
        networks = stack.container(f"demo-{job['node']}").attrs["NetworkSettings"]["Networks"]
        address = next(iter(networks.values()))["IPAddress"]
        key = stack.slurm("cat", f"{JOBS}/{job['name']}/key").strip()
        self.traits = Traits.model_validate(deployment["traits"])
        self.window: int = job["window"]
        self._alias = deployment["names"][0]
        self._http = httpx.Client(
            base_url=f"http://{address}:{job['port']}", headers={"Authorization": f"Bearer {key}"}, timeout=60
        )

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def counters(self) -> Counters:
        """Read the counters of its /metrics."""
        text = self._metrics()
        return Counters(*(_sum(text, name) for name in (QUERIES, HITS)))

    def block(self) -> int:
        """Return the number of tokens per cache block."""
        found = re.search(r'^vllm:cache_config_info\{.*\bblock_size="(\d+)"', self._metrics(), re.M)
        assert found, "no block size in /metrics"
        return int(found[1])

    def tokens(self, body: Body) -> list[int]:
        """Return the prompt tokens of a `/v1/messages` body, by vLLM's own template and tokenizer."""
        chat = as_chat(prepare_messages(body, self.window, self.traits))
        answer = self._http.post("/tokenize", json={"model": self._alias, **chat})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["tokens"])

    def _metrics(self) -> str:
        return self._http.get("/metrics").raise_for_status().text


def _sum(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.M))


def prompt_tokens(usage: Body) -> int:
    """Return all tokens of the prompt, including cached ones."""
    parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(usage.get(part) or 0 for part in parts)


def as_chat(body: Body) -> Body:
    """Turn a prepared Anthropic body into the chat that vLLM makes of it, without reasoning and images."""
    messages: list[Body] = []
    if body.get("system"):
        messages.append({"role": "system", "content": "".join(block["text"] for block in body["system"])})
    for turn in body["messages"]:
        messages += _chat_messages(turn)
    kwargs = {"chat_template_kwargs": body["chat_template_kwargs"]} if "chat_template_kwargs" in body else {}
    return {"messages": messages, "tools": [_function(tool) for tool in body.get("tools", ())] or None, **kwargs}


def _chat_messages(turn: Body) -> list[Body]:
    if isinstance(turn["content"], str):
        return [turn]
    results = [block for block in turn["content"] if block["type"] == "tool_result"]
    texts = [{"type": "text", "text": block["text"]} for block in turn["content"] if block["type"] == "text"]
    calls = [_call(block) for block in turn["content"] if block["type"] == "tool_use"]
    message: Body = {"role": turn["role"]}
    message |= {"content": texts[0]["text"] if len(texts) == 1 else texts} if texts else {}
    message |= {"tool_calls": calls} if calls else {}
    return [*map(_result, results), *([message] if texts or calls else [])]


def _result(block: Body) -> Body:
    content = block.get("content") or ""
    text = content if isinstance(content, str) else "\n".join(item.get("text", "") for item in content)
    return {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text}


def _call(block: Body) -> Body:
    function = {"name": block["name"], "arguments": json.dumps(block["input"])}
    return {"id": block["id"], "type": "function", "function": function}


def _function(tool: Body) -> Body:
    parts = {"name": tool["name"], "description": tool.get("description"), "parameters": tool["input_schema"]}
    return {"type": "function", "function": parts}
