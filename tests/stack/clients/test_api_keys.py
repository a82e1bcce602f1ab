"""API keys through the whole stack: what they open, their limits, revocation and usage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.stack.conftest import SCRIPTED
from tests.stack.harness import Stack
from tests.waiting import wait_for

HOLDER = "visitor"
LIMIT = 3


@pytest.fixture(scope="module")
def key(stack: Stack) -> Iterator[str]:
    """Make a key as the owner does, and revoke it afterwards."""
    stack.bouchet("keys", "revoke", HOLDER)
    done = stack.bouchet("keys", "add", HOLDER, "--requests-per-minute", str(LIMIT), "--json")
    assert done.status == 0, done.output
    yield json.loads(done.stdout)["key"]
    stack.bouchet("keys", "revoke", HOLDER)


def ask(stack: Stack, key: str, text: str, **fields: Any) -> httpx.Response:
    body = {"model": SCRIPTED, "max_tokens": 50, "messages": [{"role": "user", "content": text}], **fields}
    headers = {"x-api-key": key, "x-claude-code-session-id": "11111111-2222-3333-4444-555555555555"}
    return httpx.post(f"{stack.proxy_url}/v1/messages", json=body, headers=headers, timeout=60)


def test_key_lifecycle(stack: Stack, scripted: dict[str, Any], key: str) -> None:
    assert httpx.get(f"{stack.api_url}/v1/deployments", headers={"x-api-key": key}, timeout=30).status_code == 401
    answered = 0
    # while one waits for answers, the minute's worth fills again
    while (over := ask(stack, key, "SAY[for a visitor]", stream=answered == 1)).status_code == 200:
        answered += 1
        assert answered < 10 * LIMIT
    assert answered >= LIMIT
    assert (over.status_code, over.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(over.headers["retry-after"]) >= 1

    def used() -> dict[str, Any] | None:
        lines = json.loads(stack.bouchet("usage", "--since", "15m", "--json").stdout)["lines"]
        return next((line for line in lines if line["name"] == HOLDER and line["requests"] > answered), None)

    line = wait_for(used, 60)
    assert line["output_tokens"] >= answered * 3 and line["input_tokens"] + line["cached_tokens"] > 0
    assert line["errors_by_kind"] == {"rate_limit_exceeded": 1}
    assert stack.bouchet("keys", "revoke", HOLDER).status == 0
    wait_for(lambda: ask(stack, key, "x").status_code == 401, 30)


def test_metrics_parse_with_prometheus(stack: Stack, scripted: dict[str, Any]) -> None:
    assert ask(stack, stack.key, "SAY[counted]").status_code == 200
    answer = httpx.get(f"{stack.proxy_url}/metrics", headers={"Authorization": f"Bearer {stack.key}"}, timeout=30)
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    asked = [s for s in families["bouchet_requests"].samples if s.labels["model"] == scripted["model"]]
    assert sum(sample.value for sample in asked) >= 1
    assert {s.labels["kind"] for s in families["bouchet_tokens"].samples} >= {"input", "output"}


def test_logs_and_redis_contain_no_key(stack: Stack, key: str) -> None:
    for name, container in stack.containers().items():
        assert key.encode() not in container.logs(), name
    found = stack.on("redis", ["grep", "-rlF", key, "/data"])
    assert found.stdout == "", found.output
