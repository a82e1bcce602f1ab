"""The memory estimate before a launch matches what vLLM reports after it."""

from __future__ import annotations

import json
import re

import pytest

from tests.stack.conftest import SMALL
from tests.stack.harness import Stack


def test_dry_run_estimate_matches_vllm(stack: Stack) -> None:
    log = stack.on("demo-login", ["cat", stack.deployment(SMALL)["jobs"][-1]["log"]]).stdout
    reported = re.search(
        r"KV cache size: ([\d,]+) tokens, Maximum concurrency for [\d,]+ tokens per request: (.+)x", log
    )
    assert reported is not None
    done = stack.bouchet("launch", SMALL, "--name", "estimated", "--dry-run", "--json")
    assert done.status == 0, done.output
    memory = json.loads(done.stdout)["memory"]
    assert "on the cluster" in memory["source"]
    assert memory["conversations"] == pytest.approx(float(reported[2]), abs=0.01)
    assert memory["conversations"] * memory["window"] == pytest.approx(int(reported[1].replace(",", "")), rel=0.01)


def test_dry_run_shows_estimate_and_refuses_misfit(stack: Stack) -> None:
    shown = stack.bouchet("launch", SMALL, "--name", "estimated", "--dry-run", "--max-len", "4096")
    assert "memory: weights" in shown.stdout, shown.output
    assert "memory: about 2.8 conversations of the full window fit at once" in shown.stdout
    refused = stack.bouchet("launch", SMALL, "--name", "estimated", "--dry-run", "--max-len", "1000000")
    assert refused.status == 1 and "use --max-len 8192 or less" in refused.stderr
