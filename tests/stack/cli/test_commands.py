"""The end: a cancelled deployment gives its GPU back, and says so."""

from __future__ import annotations

from typing import Any

from tests.stack.conftest import SCRIPTED, SMALL
from tests.stack.harness import Stack
from tests.waiting import wait_for


def test_status_shows_running_model(stack: Stack) -> None:
    done = stack.bouchet("status")
    assert done.status == 0, done.output
    assert SMALL in done.stdout and "ready" in done.stdout
    assert stack.key not in done.output and stack.admin_key not in done.output


def test_models_shows_catalog(stack: Stack) -> None:
    done = stack.bouchet("models")
    assert done.status == 0 and "Qwen/Qwen3-Coder-Next" in done.stdout


def test_legacy_flags_work(stack: Stack) -> None:
    assert SMALL in stack.bouchet("--status").stdout


def test_cancel_ends_job_and_frees_node(stack: Stack, scripted: dict[str, Any]) -> None:
    job = scripted["jobs"][-1]
    done = stack.bouchet("cancel", SCRIPTED)
    assert done.status == 0, done.output
    wait_for(
        lambda: not stack.slurm("squeue", "-h", "-j", str(job["slurm_id"]), "-t", "R,CG,PD", "-o", "%i").strip(), 120
    )
    ended = stack.wait_for_phase(scripted["id"], "ended", timeout_s=120)
    assert ended["ending"] == "cancelled"
    node = f"demo-{job['node']}"
    wait_for(lambda: str(job["port"]) not in stack.on(node, ["ss", "-Hltn"]).stdout, 90)
    assert "ready" in stack.bouchet("status").stdout
    with stack.proxy() as proxy:
        answer = proxy.post(
            "/v1/messages", json={"model": SCRIPTED, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
        )
    assert answer.status_code in (404, 503, 529) and "bouchet launch" in answer.text


def test_cancel_unknown_deployment_is_refused(stack: Stack) -> None:
    done = stack.bouchet("cancel", "nosuchthing")
    assert done.status != 0 and "bouchet status" in done.stderr
