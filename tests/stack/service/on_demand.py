"""An on-demand model on the demo cluster: parked, woken by a request that is held, parked again.

Part of `make soak`; test_service.py is the quick form.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stack.clients.claude_code import ClaudeCode, exported
from tests.stack.harness import Stack, say
from tests.stack.job_faults import NODES, shell
from tests.waiting import wait_for

START_LIMIT_S = 240
# what a large model takes; a stream is held for four minutes
SLOW_START_S = 190


def launch(stack: Stack, name: str, idle_min: int) -> str:
    """Launch the scripted model on demand, and return the deployment's id."""
    body = {
        "model": "demo/scripted",
        "name": name,
        "partition": "gpu_h200",
        "time": "01:00:00",
        "idle_timeout_min": idle_min,
        "policy": {"on_demand": True},
    }
    with stack.api() as api:
        answer = api.post("/v1/deployments", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def listed(stack: Stack) -> list[str]:
    """Return the names in /v1/models."""
    with stack.proxy() as http:
        return [entry["id"] for entry in http.get("/v1/models").raise_for_status().json()["data"]]


def say_hello(stack: Stack, model: str) -> tuple[list[dict[str, Any]], float]:
    """Ask for a stream; return its events and the Unix time of the first text."""
    body = {"model": model, "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "SAY[hello]"}]}
    events, first = list[dict[str, Any]](), 0.0
    with stack.proxy() as http, http.stream("POST", "/v1/messages", json=body, timeout=START_LIMIT_S) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data:"):
                events.append(json.loads(line[5:]))
                if events[-1]["type"] == "content_block_delta" and not first:
                    first = time.time()
    return events, first


@pytest.mark.timeout(900)
def test_parked_model_parks_again_when_it_is_idle(stack: Stack, room: None) -> None:
    check_on_demand(stack, parks_again=True)


@pytest.mark.timeout(900)
def test_claude_code_shows_no_error_while_a_model_takes_minutes_to_start(
    stack: Stack, room: None, tmp_path: Path
) -> None:
    name = f"slow-{uuid.uuid4().hex[:6]}"
    identity = launch(stack, name, 30)
    try:
        stack.wait_for_phase(identity, "parked", timeout_s=60)
        claude = ClaudeCode(tmp_path, exported(stack, name), timeout_s=600)
        with slow_starts(stack):
            asked = time.time()
            report = claude.run("SAY[hello]")
        took_s = time.time() - asked
        job = stack.deployment(identity)["jobs"][-1]
        ready_s = _unix(job["since"]["ready"]) - asked
        say(f"on demand: Claude Code had its answer after {took_s:.0f} s, the model was ready after {ready_s:.0f} s")
        assert report.result == "hello" and ready_s >= SLOW_START_S
        assert [line for line in report.lines if "API Error" in json.dumps(line)] == []
    finally:
        stack.bouchet("cancel", identity)
        stack.wait_for_phase(identity, "ended", timeout_s=120)


@contextmanager
def slow_starts(stack: Stack) -> Iterator[None]:
    """Let each job on the nodes wait before its container starts."""
    path = "/usr/local/bin/apptainer"
    script = f"""#!/bin/sh
waited=/tmp/waited-$SLURM_JOB_ID
[ -e "$waited" ] || {{ : > "$waited"; sleep {SLOW_START_S}; }}
exec /usr/bin/apptainer "$@"
"""
    for node in NODES:
        shell(stack, f"demo-{node}", f"cat > {path} <<'END'\n{script}END\nchmod 755 {path}", "root")
    try:
        yield
    finally:
        for node in NODES:
            shell(stack, f"demo-{node}", f"rm -f {path}", "root")


def check_on_demand(stack: Stack, *, parks_again: bool) -> None:
    """Let a stream wake a parked model, and check what the client and Slurm have seen."""
    name = f"demand-{uuid.uuid4().hex[:6]}"
    identity = launch(stack, name, 1)
    try:
        parked = stack.wait_for_phase(identity, "parked", timeout_s=60)
        assert parked["jobs"] == [], "nothing was submitted"
        wait_for(lambda: name in listed(stack), 30)
        with stack.proxy() as http:
            plain = http.post(
                "/v1/messages",
                json={"model": name, "max_tokens": 9, "messages": [{"role": "user", "content": "SAY[hi]"}]},
            )
        assert plain.status_code == 529 and int(plain.headers["retry-after"]) > 0, plain.text
        asked = time.time()
        events, first = say_hello(stack, name)
        assert "error" not in [event["type"] for event in events], events[-1]
        text = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
        assert text == "hello" and "ping" in [event["type"] for event in events]
        record = stack.deployment(identity)
        ready = _unix(record["jobs"][-1]["since"]["ready"])
        say(f"on demand: ready after {ready - asked:.0f} s, first text {first - ready:.1f} s after that")
        if parks_again:
            # a figure for a machine that does nothing else
            assert first - ready <= 1, "the answer begins within a second of ready"
            check_parked_again(stack, identity, name)
    finally:
        stack.bouchet("cancel", identity)
        stack.wait_for_phase(identity, "ended", timeout_s=120)
    with stack.proxy() as http:
        gone: httpx.Response = http.get(f"/v1/models/{name}")
    assert gone.status_code == 404


def check_parked_again(stack: Stack, identity: str, name: str) -> None:
    """Wait until it was idle for its time, and check that nothing of it is left on the cluster."""
    stack.wait_for_phase(identity, "parked", timeout_s=180)
    record = stack.deployment(identity)
    assert "no request for" in record["reason"] and name in listed(stack)
    assert [job["ending"] for job in record["jobs"]] == ["completed"]
    actions = [decision["action"] for decision in record["service"]["decisions"]]
    assert actions[0] == "park" and "wake" in actions and actions[-1] == "park"
    assert stack.slurm("squeue", "--me", "-h", "-o", "%j").count(identity) == 0


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
