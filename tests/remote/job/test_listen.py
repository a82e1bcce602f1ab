"""Where a job's vLLM listens: for its network, for its node alone, or at a socket that is the user's alone."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.compute_node import BOTH, JOB_ID, KEY, ComputeNode, listens, mode_of


@pytest.fixture
def temporary(node: ComputeNode) -> Iterator[Path]:
    """A TMPDIR with a short name, as nodes have; the test's own is too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="b-", dir="/tmp"))
    node.environment["TMPDIR"] = str(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def said_by(node: ComputeNode) -> dict[str, object]:
    """The connection file, and a heartbeat that found the server well."""
    heartbeat = node.root / "logs" / f"heartbeat-{JOB_ID}.json"
    node.wait_for(lambda: heartbeat.exists() and json.loads(heartbeat.read_text())["state"] == "ok")
    return dict(json.loads(node.connection_file.read_text()))


def get(path: str) -> bytes:
    """/metrics over a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(path)
        asking.sendall(f"GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
        return asking.recv(100)


def stopped(node: ComputeNode) -> str:
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    return str(node.end()["kind"])


@pytest.mark.parametrize("node", BOTH, indirect=True)
def test_a_socket_is_the_users_alone_and_watched_like_a_port(node: ComputeNode, temporary: Path) -> None:
    node.spec["listen"] = "socket"
    node.start()
    said = said_by(node)
    (scratch,) = temporary.iterdir()
    assert (said["port"], said["socket"], said["loopback"]) == (None, f"{scratch}/vllm.sock", False)
    assert mode_of(scratch) == 0o700
    words = node.record()["command"]
    assert words[words.index("--uds") + 1] == "/bouchet/job/vllm.sock"
    assert not {"--host", "--port"} & set(words)
    assert get(str(said["socket"])).startswith(b"HTTP/1.1 200")
    assert stopped(node) == "stopped"
    assert list(temporary.iterdir()) == [] and node.left_behind() == []


def test_a_loopback_port_is_the_nodes_alone(node: ComputeNode) -> None:
    node.spec["listen"] = "loopback"
    node.start()
    said = said_by(node)
    port = said["port"]
    assert isinstance(port, int) and (said["socket"], said["loopback"]) == (None, True)
    words = node.record()["command"]
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert listens(port)
    assert stopped(node) == "stopped"


def test_an_idle_job_at_a_socket_gives_its_gpu_back(node: ComputeNode, temporary: Path) -> None:
    node.spec.update(listen="socket", idle_timeout_s=1)
    assert node.run() == 0
    assert node.end()["kind"] == "idle"


def test_a_path_too_long_for_a_socket_is_refused(node: ComputeNode) -> None:
    node.spec["listen"] = "socket"
    long = node.temporary / ("x" * 60)
    long.mkdir()
    node.environment["TMPDIR"] = str(long)
    assert node.run() == 1
    assert "node_listens: loopback" in node.end()["sentence"]
    assert not (node.root / "record.json").exists()


def test_a_word_from_another_version_is_refused(node: ComputeNode) -> None:
    node.spec["listen"] = "everywhere"
    assert node.run() == 1
    assert "cannot listen on 'everywhere'" in node.end()["sentence"]
