"""What ends a model that serves, while streams run: a port taken, killed processes, a dead node, the walltime.

Three deployments start side by side; each is used for the faults that it can take one after the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.harness import Stack
from tests.stack.job_faults import (
    LOGS,
    Staged,
    Stream,
    demo_node,
    end,
    ended,
    let_go,
    nothing_left,
    nothing_starts,
    shell,
    slurm_root,
    spare_node,
    stage,
)
from tests.waiting import wait_for

READY_S = 240
# what vLLM is given to finish its streams after the first signal, so that a long one is cut in this test
DRAIN_S = 6
# seconds of a long stream's life after which another one is begun: one is always far from its end
YOUNG_S = 3
# an answer that no machine finishes within DRAIN_S: 60,000 tokens, of which vLLM on a CPU makes hundreds a second
LONG, LONG_TOKENS = "COUNT[15000]", 60_000
# ... and one that each machine finishes within it
SHORT = "SAY[short]"
TAKER = "import socket,time; s=socket.socket(); s.bind(('0.0.0.0', {port})); s.listen(); time.sleep(120)"
Deployments = dict[str, Staged]


@pytest.fixture(scope="module")
def running(stack: Stack, room: None) -> Iterator[Deployments]:
    """Start three deployments: `engine` and `node` on the spare node, `walltime` beside the demo's own."""
    made: Deployments = {}
    try:
        with nothing_starts(stack):
            for name in ("engine", "node", "walltime"):
                made[name] = stage(stack, f"fault-{name}")
            words = f"s/^--shutdown-timeout$/&/; /^--shutdown-timeout$/{{n; s/.*/{DRAIN_S}/}}"
            shell(stack, "demo-login", f"sed -i '{words}' {made['walltime'].folder}/vllm.args")
            spare = spare_node(stack)
            let_go(stack, made["engine"], spare)
            let_go(stack, made["node"], spare)
            let_go(stack, made["walltime"], demo_node(stack))
        yield made
    finally:
        end(stack, list(made.values()))


def ready(stack: Stack, staged: Staged) -> dict[str, Any]:
    return stack.wait_for_phase(staged.id, "ready", timeout_s=READY_S)


def log_of(stack: Stack, staged: Staged) -> str:
    return shell(stack, "demo-login", f"cat {LOGS}/{staged.slurm_id}.log")


def server_of(stack: Stack, node: str, staged: Staged) -> str:
    """Return the pid of its API server on the node."""
    return shell(stack, f"demo-{node}", f"pgrep -f -- '^/.*vllm serve .*--served-model-name {staged.name} '").split()[
        -1
    ]


def long_answer(stack: Stack, staged: Staged) -> Stream:
    return Stream(stack, staged.name, LONG, LONG_TOKENS)


def answers(stack: Stack, staged: Staged) -> bool:
    stream = Stream(stack, staged.name, "SAY[here I am]")
    return stream.last() == "message_stop" and b"here" in stream.body


@pytest.mark.long
def test_taken_port_is_replaced(stack: Stack, running: Deployments) -> None:
    staged = running["engine"]
    path = f"{LOGS}/connection-{staged.slurm_id}.json"
    text = wait_for(lambda: stack.on("demo-login", ["cat", path], user="researcher").stdout, 60)
    port, node = json.loads(text)["port"], json.loads(text)["node"]
    stack.container(f"demo-{node}").exec_run(["python3", "-c", TAKER.format(port=port)], detach=True, user="colleague")
    record = ready(stack, staged)
    assert record["jobs"][-1]["port"] != port
    assert "another program took the port meanwhile" in log_of(stack, staged)
    assert answers(stack, staged)


def test_walltime_end_drains_streams(stack: Stack, running: Deployments) -> None:
    staged = running["walltime"]
    ready(stack, staged)
    # Slurm warns two minutes before the end, and looks every half a minute whom to warn
    slurm_root(stack, "update", f"jobid={staged.slurm_id}", f"timelimit={minutes_so_far(stack, staged) + 2}")
    long, short = [long_answer(stack, staged).under_way()], [Stream(stack, staged.name, SHORT).under_way()]
    newest = time.monotonic()

    def refused() -> bool:
        nonlocal newest
        if time.monotonic() - newest > YOUNG_S:
            newest = time.monotonic()
            long.append(long_answer(stack, staged))
        short.append(Stream(stack, staged.name, SHORT))
        assert short[-1].began.wait(30)
        return short[-1].status != 200

    wait_for(refused, 60, lambda: log_of(stack, staged)[-1000:])
    assert short[-1].status in (404, 503, 529), short[-1].body
    assert "shutting down" in short[-1].body.decode() or "launch" in short[-1].body.decode()
    assert {one.last() for one in short[:-1]} == {"message_stop"}, "what could finish did"
    assert [one.last() for one in long if one.answered()][-1] == "error", "what could not ended in an error"
    record = ended(stack, staged)
    assert record["ending"] == "timed_out"
    assert record["reason"] == "the time limit was reached; launch again", "it ended by itself, before Slurm's own end"


def minutes_so_far(stack: Stack, staged: Staged) -> int:
    began = stack.slurm("squeue", "-h", "-j", str(staged.slurm_id), "-o", "%S").strip()
    now = shell(stack, "demo-login", f"echo $(($(date +%s) - $(date -d {began} +%s)))")
    return int(now) // 60


def test_killed_engine_ends_deployment_and_streams(stack: Stack, running: Deployments) -> None:
    staged, node = running["engine"], spare_node(stack)
    ready(stack, staged)
    stream = long_answer(stack, staged).under_way()
    server = server_of(stack, node, staged)
    shell(stack, f"demo-{node}", f"kill -KILL $(pgrep -P {server} -f VLLM::EngineCore)")
    assert stream.last() == "error"
    record = ended(stack, staged)
    assert record["ending"] == "failed" and "launch again" in record["reason"], record["reason"]
    assert "engine" in record["reason"].lower(), record["reason"]


@pytest.mark.long
def test_dead_node_ends_streams_and_requeues(stack: Stack, running: Deployments) -> None:
    staged = running["node"]
    node = ready(stack, staged)["jobs"][-1]["node"]
    stream = long_answer(stack, staged).under_way()
    container = stack.container(f"demo-{node}")
    container.kill()
    try:
        assert stream.last(timeout_s=120) == "error"
        record = stack.wait_for_phase(staged.id, "queued", timeout_s=120)
        assert "Slurm requeued the job" in record["reason"] and record["jobs"][-1]["node"] is None
    finally:
        container.start()
    stack.wait_healthy(f"demo-{node}")
    # Slurm lets a requeued job wait for 40 s, for the node refuses one that comes sooner
    ready(stack, staged)
    assert answers(stack, staged)
    scratch = shell(stack, f"demo-{node}", "ls -d /tmp/bouchet-*").split()
    assert len(scratch) == 1 and f"-{staged.slurm_id}-" in scratch[0], "what died with the node is swept"


def test_killed_server_with_hanging_disk_ends_deployment(stack: Stack, running: Deployments) -> None:
    staged = running["node"]
    node = ready(stack, staged)["jobs"][-1]["node"]
    stream = long_answer(stack, staged).under_way()
    # whoever opens it waits: as a file of a network disk whose server is gone
    shell(stack, "demo-login", f"rm {staged.folder}/spec.json && mkfifo {staged.folder}/spec.json")
    shell(stack, f"demo-{node}", f"kill -KILL {server_of(stack, node, staged)}")
    assert stream.last() == "error"
    record = ended(stack, staged)
    assert record["ending"] == "failed", record["reason"]
    assert "vLLM exited with status 137" in record["reason"] and "more --gpus" in record["reason"], record["reason"]


def test_serving_faults_leave_nothing(stack: Stack, running: Deployments) -> None:
    nothing_left(stack, [one.slurm_id for one in running.values()])
