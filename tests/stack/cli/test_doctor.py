"""`bouchet doctor` over the whole chain: nothing fails on a stack that works, and it sees the real Slurm."""

from __future__ import annotations

import json
from typing import Any

from tests.stack.harness import Stack


def look(stack: Stack) -> tuple[int, list[dict[str, Any]]]:
    done = stack.bouchet("doctor", "--json")
    return done.status, json.loads(done.stdout)["checks"]


def test_doctor_healthy_stack_has_no_failure(stack: Stack) -> None:
    stack.wait_healthy("worker", "api", "proxy", "gateway", "redis")
    status, checks = look(stack)
    assert [check for check in checks if check["verdict"] == "fail"] == []
    assert status == 0
    assert {c["area"] for c in checks} >= {
        "stack",
        "ssh",
        "slurm",
        "partitions",
        "storage",
        "images",
        "gpus",
        "catalog",
    }
    messages = {check["name"]: check["message"] for check in checks}
    assert "24.11" in messages["version"] or "24.11" in json.dumps(checks)
    passed = {check["name"] for check in checks if check["verdict"] == "pass"}
    # the site file says what this Slurm really enforces
    assert {"gpu_devel", "gpu_h200", "scavenge_gpu", "day", "squeue", "accounting", "cpu-0.32.0"} <= passed


def test_doctor_prints_messages(stack: Stack) -> None:
    done = stack.bouchet("doctor", COLUMNS="60")
    assert done.status == 0, done.output
    assert "pass     ssh: tunnel: connected to" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert stack.key not in done.output and stack.admin_key not in done.output
