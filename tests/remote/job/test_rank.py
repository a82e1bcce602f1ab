"""Several nodes in one job: the batch script on the first one, rank.sh under a fake `srun` on the others."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.remote.compute_node import (
    KEY,
    OLDEST,
    ComputeNode,
    add_second_node,
    make_compute_node,
    request_status,
    running,
    write_program,
)


@pytest.fixture
def two(node: ComputeNode) -> ComputeNode:
    """Return the node as the first of two."""
    return add_second_node(node)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComputeNode]:
    """Run one job that serves on two nodes, for the tests that only read."""
    node = add_second_node(make_compute_node(tmp_path_factory.mktemp("served"), OLDEST))
    (node.job_dir / "vllm.args").write_text("--api-server-count\n4\n--x\ny z\n--api-server-count=2\n--last\n")
    with running(node):
        node.connection()
        yield node


def other(two: ComputeNode) -> dict[str, Any]:
    """Return what Apptainer got on the second node, once it runs there."""
    path = two.root / "record-1.json"
    two.wait_for(path.exists)
    return dict(json.loads(path.read_text()))


def value(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_ranks_get_one_rendezvous_and_different_numbers(served: ComputeNode) -> None:
    connection = served.connection()
    first, second = served.record()["command"], other(served)["command"]
    for option in ("--nnodes", "--master-addr", "--master-port", "--data-parallel-rpc-port"):
        assert value(first, option) == value(second, option)
    assert (value(first, "--nnodes"), value(first, "--master-addr")) == ("2", "127.0.0.1")
    assert (value(first, "--node-rank"), value(second, "--node-rank")) == ("0", "1")
    assert "--headless" in second and "--headless" not in first and "--port" not in second
    ports = {value(first, "--port"), value(first, "--master-port"), value(first, "--data-parallel-rpc-port")}
    assert len(ports) == 3
    assert second[-1] == first[-1] == "--last", "the catalog's arguments come last on both"
    assert value(connection["command"], "--nnodes") == "2" and connection["node"] == "node7"


def test_other_nodes_get_key_and_addresses_but_srun_gets_no_key(served: ComputeNode) -> None:
    record = other(served)
    for given in (record["environment"], served.record()["environment"]):
        assert given["APPTAINERENV_VLLM_API_KEY"] == KEY
        assert given["APPTAINERENV_VLLM_HOST_IP"] == "127.0.0.1"
        assert given["APPTAINERENV_GLOO_SOCKET_IFNAME"] == given["APPTAINERENV_NCCL_SOCKET_IFNAME"] == "lo"
    called = json.loads((served.root / "record-srun.json").read_text())
    assert KEY not in json.dumps(called)
    assert {"--relative=1", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--overlap"} <= set(called["argv"])


def test_api_server_count_is_dropped_on_other_nodes(served: ComputeNode) -> None:
    assert served.record()["command"][-6:] == [
        "--api-server-count",
        "4",
        "--x",
        "y z",
        "--api-server-count=2",
        "--last",
    ]
    assert other(served)["command"][-4:] == ["--headless", "--x", "y z", "--last"]


@pytest.mark.slow
def test_one_node_needs_no_srun_and_stays_on_loopback(node: ComputeNode) -> None:
    write_program(node.root / "bin" / "srun", "echo called > $FAKE_APPTAINER_RECORD.srun")
    node.start()
    node.connection()
    assert not Path(f"{node.root}/record.json.srun").exists()
    assert "--nnodes" not in node.record()["command"]
    given = node.record()["environment"]
    assert given["APPTAINERENV_VLLM_HOST_IP"] == "127.0.0.1"
    assert given["APPTAINERENV_GLOO_SOCKET_IFNAME"] == given["APPTAINERENV_NCCL_SOCKET_IFNAME"] == "lo"


@pytest.mark.slow
def test_output_of_other_nodes_is_logged_with_their_name(two: ComputeNode) -> None:
    two.environment["FAKE_SRUN_MODE"] = "crash"
    assert two.run() == 1
    assert "node8: bouchet: starting the container\n" in two.log()
    assert two.end()["tail"] == ["node8: ValueError: no such tool parser"]


@pytest.mark.slow
def test_crash_of_other_rank_ends_job_with_its_reason(two: ComputeNode) -> None:
    two.environment["FAKE_SRUN_MODE"] = "crash"
    assert two.run() == 1
    end = two.end()
    assert (end["kind"], end["exit_status"]) == ("vllm_exited", 1)
    assert end["sentence"] == "on node8: vLLM (rank 1 of 2) exited with status 3"
    assert two.left_behind() == []


@pytest.mark.slow
def test_crash_of_first_rank_ends_others(two: ComputeNode) -> None:
    two.start()
    two.connection()
    other(two)
    os.kill(int(Path(two.record()["binds"]["/bouchet/job"], "vllm.pid").read_text()), signal.SIGKILL)
    assert two.wait() != 0
    assert "vLLM exited with status" in two.end()["sentence"]
    assert two.left_behind() == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["serve", "stubborn"])
def test_term_ends_all_nodes(two: ComputeNode, mode: str) -> None:
    two.environment["FAKE_SRUN_MODE"] = mode
    two.start()
    two.connection()
    other(two)
    two.signal(signal.SIGTERM)
    assert two.wait() == 0
    assert two.end()["kind"] == "stopped" and two.left_behind() == []


@pytest.mark.slow
def test_usr1_finishes_running_requests_on_all_nodes(two: ComputeNode) -> None:
    two.start()
    port = two.connection()["port"]
    other(two)
    answers: list[int] = []
    slow = threading.Thread(target=lambda: answers.append(request_status(port, "/slow")))
    slow.start()
    two.wait_for(lambda: Path(two.record()["binds"]["/bouchet/job"], "slow").exists())
    two.signal(signal.SIGUSR1)
    slow.join(60)
    assert answers == [200]
    assert two.wait() == 0
    assert two.end()["kind"] == "walltime" and two.left_behind() == []


@pytest.mark.slow
def test_refusal_of_other_node_is_reported(two: ComputeNode) -> None:
    two.environment["FAKE_SRUN_JOB_DIR"] = str(two.root / "nowhere")
    assert two.run() == 1
    assert two.end()["kind"] == "refused" and two.end()["sentence"].startswith("on node8: ")
    assert two.left_behind() == []


@pytest.mark.slow
def test_srun_error_is_reported(two: ComputeNode) -> None:
    write_program(two.root / "bin" / "srun", 'echo "srun: error: Unable to create step for job 77: No way" >&2; exit 1')
    assert two.run() == 1
    assert "Unable to create step for job 77: No way" in two.end()["sentence"]
