"""One model over both nodes of the demo cluster, with vLLM's real ranks: it answers, and ends as one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.harness import Stack
from tests.stack.link_faults import check_answers_with_a_cut, kill_sshd
from tests.waiting import wait_for

NAME = "bouchet-two-nodes"
NODES = ("node1", "node2")
# importing vLLM twice on two busy cores takes its time
START_S = 600


def launch(stack: Stack) -> dict[str, Any]:
    words = ["launch", "demo/scripted", "--name", NAME, "--nodes", "2", "--gpus", "2", "--partition", "gpu_h200"]
    done = stack.bouchet(*words, "--no-wait", "--json")
    assert done.status == 0, done.output
    return dict(json.loads(done.stdout))


def vllm_on(stack: Stack, node: str) -> list[str]:
    """Return the pids of the vLLM of a job on several nodes, by its command line."""
    return stack.on(f"demo-{node}", ["pgrep", "-f", "--", "--nnodes"]).stdout.split()


def left_behind(stack: Stack, slurm_id: int) -> str:
    """List processes and scratch folders of that job on both nodes. [x]: pgrep must not find its own shell."""
    traces = "--[n]nodes|VLLM::[W]orker|[r]ank.sh"
    look = f"pgrep -af -- '{traces}'; ls -d /tmp/bouchet-{slurm_id}-* 2>/dev/null"
    return "".join(stack.on(f"demo-{node}", ["sh", "-c", look]).stdout for node in NODES)


@pytest.fixture(scope="module")
def two(stack: Stack, room: None) -> Iterator[dict[str, Any]]:
    """Return a ready deployment on both nodes."""
    launch(stack)
    yield stack.wait_for_phase(NAME, "ready", timeout_s=START_S)
    stack.bouchet("cancel", NAME)


def test_two_nodes_serve_one_model(stack: Stack, two: dict[str, Any]) -> None:
    job = two["jobs"][-1]
    assert (job["placement"]["nodes"], job["placement"]["gpus"]) == (2, 2)
    assert stack.slurm("squeue", "-h", "-j", str(job["slurm_id"]), "-o", "%D %N").split() == ["2", "node[1-2]"]
    assert all(vllm_on(stack, node) for node in NODES)
    command = job["command"]
    assert command[command.index("--tensor-parallel-size") + 1] == "2"
    assert command[command.index("--nnodes") + 1] == "2"


def test_two_nodes_answer_through_proxy(stack: Stack, two: dict[str, Any]) -> None:
    question = [{"role": "user", "content": "SAY[both nodes say hello]"}]
    with stack.proxy() as proxy:
        answer = proxy.post("/v1/messages", json={"model": NAME, "max_tokens": 20, "messages": question})
    assert answer.status_code == 200, answer.text
    assert answer.json()["content"][0]["text"] == "both nodes say hello"


@pytest.mark.long
def test_two_nodes_answer_with_a_cut_is_whole(stack: Stack, two: dict[str, Any]) -> None:
    # two nodes on a small machine take long for each token
    check_answers_with_a_cut(stack, NAME, kill_sshd, "COUNT[200]")


def test_two_nodes_log_lines_name_node(stack: Stack, two: dict[str, Any]) -> None:
    job = two["jobs"][-1]
    (other,) = set(NODES) - {job["node"]}
    log = stack.slurm("cat", job["log"])
    assert "bouchet: starting the container\n" in log
    assert f"\n{other}: bouchet: starting the container\n" in log and f"\n{other}: (Worker_TP1" in log


def test_two_nodes_end_of_rank_ends_deployment(stack: Stack, two: dict[str, Any]) -> None:
    job = two["jobs"][-1]
    (other,) = set(NODES) - {job["node"]}
    stack.on(f"demo-{other}", ["kill", "-KILL", *vllm_on(stack, other)])
    ended = stack.wait_for_phase(two["id"], "ended", timeout_s=180)
    assert ended["ending"] == "failed" and f"on {other}: vLLM (rank 1 of 2) exited with status 137" in ended["reason"]
    wait_for(lambda: not left_behind(stack, job["slurm_id"]), 90, lambda: left_behind(stack, job["slurm_id"]))


def test_two_nodes_cancelled_start_leaves_nothing(stack: Stack, two: dict[str, Any]) -> None:
    record = launch(stack)
    wait_for(lambda: all(vllm_on(stack, node) for node in NODES), 240, lambda: json.dumps(stack.deployment(NAME)))
    assert stack.bouchet("cancel", NAME).status == 0
    ended = stack.wait_for_phase(record["id"], "ended", timeout_s=180)
    assert ended["ending"] == "cancelled"
    slurm_id = ended["jobs"][-1]["slurm_id"]
    wait_for(lambda: not left_behind(stack, slurm_id), 90, lambda: left_behind(stack, slurm_id))
