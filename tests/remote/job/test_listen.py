"""Where a job's vLLM listens: on the cluster's network, on its node only, or at a private UNIX socket."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.compute_node import BOTH, KEY, ComputeNode, listens, mode_of


@pytest.fixture
def temporary(node: ComputeNode) -> Iterator[Path]:
    """Set a short TMPDIR, as nodes have; the test's own path is too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="b-", dir="/tmp"))
    node.environment["TMPDIR"] = str(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def connection_of(node: ComputeNode) -> dict[str, object]:
    """Return the connection file, once the server was found healthy."""
    node.healthy_heartbeat()
    return dict(json.loads(node.connection_file.read_text()))


def get(path: str) -> bytes:
    """/metrics over a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(f"GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
        return client.recv(100)


@pytest.mark.slow
@pytest.mark.parametrize("node", BOTH, indirect=True)
def test_socket_is_private_and_probed(node: ComputeNode, temporary: Path) -> None:
    node.spec["listen"] = "socket"
    node.start()
    connection = connection_of(node)
    (scratch,) = temporary.iterdir()
    assert (connection["port"], connection["socket"], connection["loopback"]) == (None, f"{scratch}/vllm.sock", False)
    assert mode_of(scratch) == 0o700
    command = node.record()["command"]
    assert command[command.index("--uds") + 1] == "/bouchet/job/vllm.sock"
    assert not {"--host", "--port"} & set(command)
    assert get(str(connection["socket"])).startswith(b"HTTP/1.1 200")
    assert node.stop()["kind"] == "stopped"
    assert list(temporary.iterdir()) == [] and node.left_behind() == []


@pytest.mark.slow
def test_loopback_port_is_not_on_network(node: ComputeNode) -> None:
    node.spec["listen"] = "loopback"
    node.start()
    connection = connection_of(node)
    port = connection["port"]
    assert isinstance(port, int) and (connection["socket"], connection["loopback"]) == (None, True)
    command = node.record()["command"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert listens(port)
    assert node.stop()["kind"] == "stopped"


@pytest.mark.slow
def test_idle_job_at_socket_ends(node: ComputeNode, temporary: Path) -> None:
    node.spec.update(listen="socket", idle_timeout_s=1)
    assert node.run() == 0
    assert node.end()["kind"] == "idle"


def test_socket_path_too_long_is_refused(node: ComputeNode) -> None:
    node.spec["listen"] = "socket"
    long = node.temporary / ("x" * 60)
    long.mkdir()
    node.environment["TMPDIR"] = str(long)
    assert node.run() == 1
    assert "node_listens: loopback" in node.end()["sentence"]
    assert not (node.root / "record.json").exists()


def test_unknown_listen_value_is_refused(node: ComputeNode) -> None:
    node.spec["listen"] = "everywhere"
    assert node.run() == 1
    assert "cannot listen on 'everywhere'" in node.end()["sentence"]
