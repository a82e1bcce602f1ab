"""`via: node`: only its user reaches vLLM on its node, over ssh to the node."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bouchet_core.tunnel import SlotTarget, TunnelState
from bouchet_gateway.errors import NodeRefusedError
from bouchet_gateway.slots.relay import RelayEnd
from bouchet_gateway.ssh.tunnel import Tunnel

from tests.stack.conftest import SMALL
from tests.stack.harness import ROOT, Stack
from tests.stack.link_faults import check_answers_with_a_cut, kill_sshd
from tests.stack.ssh.own_tunnel import PASSCODE, trust_the_host, tunnel_as, until
from tests.waiting import wait_for

NAME, MODEL = "over-node", "demo/scripted"
ACCEPTED = re.compile(r"Accepted \S+ for researcher")
PORT = 18_765


@pytest.fixture(scope="module")
def over_node(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Yield the stack with `via: node` in its site file."""
    sites = tmp_path_factory.mktemp("sites") / "sites"
    shutil.copytree(ROOT / "sites", sites)
    # pytest's folders are private to its user, and the services run as others
    for folder in (sites, *list(sites.parents)[:3]):
        folder.chmod(0o755)
    text = (sites / "demo.yaml").read_text()
    (sites / "demo.yaml").write_text(text.replace("login: {", "via: node\nlogin: {"))
    done = stack.make("up", BOUCHET_SITE_DIR=str(sites))
    assert done.status == 0, done.output
    yield stack
    done = stack.make("up")
    assert done.status == 0, done.output


@pytest.fixture(scope="module")
def served(over_node: Stack) -> Iterator[dict[str, Any]]:
    """Yield a ready deployment that was launched with `via: node`."""
    done = over_node.bouchet("launch", MODEL, "--name", NAME, "--partition", "gpu_h200", "--no-wait")
    assert done.status == 0, done.output
    yield over_node.wait_for_phase(NAME, "ready")
    identity = over_node.deployment(NAME)["id"]
    over_node.bouchet("cancel", identity)
    over_node.wait_for_phase(identity, "ended", timeout_s=90)


def reply(stack: Stack, model: str, prompt: str) -> str:
    body = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": prompt}]}
    with stack.proxy() as proxy:
        answer = proxy.post("/v1/messages", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["content"][0]["text"])


def logins(stack: Stack) -> int:
    """Count the logins of the gateway's user at the login node."""
    return len(ACCEPTED.findall(stack.container("demo-login").logs().decode()))


def test_via_node_chat_uses_one_connection(over_node: Stack, served: dict[str, Any]) -> None:
    before = logins(over_node)
    job = served["jobs"][-1]
    assert (job["port"], job["loopback"]) == (None, False) and job["socket"].endswith("/vllm.sock")
    assert reply(over_node, NAME, "SAY[over the node]") == "over the node"
    # launched under `via: login`, and reached all the same
    assert reply(over_node, SMALL, "hi")
    with over_node.api() as api:
        tunnel = api.get("/v1/tunnel").raise_for_status().json()
    assert tunnel["nodes"][job["node"]] == ""
    assert (tunnel["connections"], logins(over_node)) == (1, before)


@pytest.mark.long
def test_via_node_answer_with_a_cut_is_whole(over_node: Stack, served: dict[str, Any]) -> None:
    check_answers_with_a_cut(over_node, NAME, kill_sshd)


def test_via_node_other_users_are_refused(over_node: Stack, served: dict[str, Any]) -> None:
    job = served["jobs"][-1]
    node, path = f"demo-{job['node']}", job["socket"]
    assert over_node.on(node, ["test", "-S", path]).status == 0
    asks = ["python3", "-c", "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])", path]
    assert over_node.on(node, asks, user="researcher").status == 0
    refused = over_node.on(node, asks, user="colleague")
    assert refused.status != 0 and "Permission denied" in refused.output
    # its engine's own sockets are for the node alone; the server listens for no other user
    owned = over_node.on(node, ["ss", "-Hltnp"]).stdout.splitlines()
    assert not [line for line in owned if "vllm" in line.lower() and " 127." not in line and " [::1]" not in line], (
        owned
    )
    stat = over_node.on(node, ["stat", "-c", "%a %U", path.rpartition("/")[0]])
    assert stat.stdout.strip() == "700 researcher"


def test_via_node_dry_run_shows_socket(over_node: Stack) -> None:
    done = over_node.bouchet("launch", MODEL, "--name", "tried", "--dry-run")
    assert done.status == 0, done.output
    assert '"listen": "socket"' in done.stdout


@pytest.mark.long
def test_via_node_requeued_job_is_found_at_new_socket(over_node: Stack, served: dict[str, Any]) -> None:
    job = served["jobs"][-1]
    # Slurm starts it again after 40 s
    done = over_node.on("demo-ctl", ["scontrol", "requeue", str(job["slurm_id"])])
    assert done.status == 0, done.output

    def at_new_socket() -> Any:
        now = over_node.deployment(NAME)
        return now["phase"] == "ready" and now["jobs"][-1]["socket"] not in (job["socket"], None)

    wait_for(at_new_socket, 300, lambda: str(over_node.deployment(NAME)))
    assert reply(over_node, NAME, "SAY[again]") == "again"
    assert over_node.on(f"demo-{job['node']}", ["test", "-e", job["socket"]]).status != 0


async def asked(tunnel: Tunnel, target: SlotTarget) -> bytes:
    """Return the response of an HTTP server behind that target."""
    session = await tunnel.session(5)
    channel, listener = RelayEnd(), Listener()
    await session.open_channel(target, lambda: channel, 10.0)
    channel.join(listener)
    channel.write(b"GET / HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(10):
        await listener.received_all.wait()
    channel.close()
    return listener.reply


class Listener(RelayEnd):
    """Keeps what the other side says."""

    def __init__(self) -> None:
        super().__init__()
        self.reply, self.received_all = b"", asyncio.Event()

    def write(self, data: bytes) -> None:
        self.reply += data

    def finish(self) -> None:
        self.received_all.set()


async def test_via_node_needs_no_prompt_but_a_job(stack: Stack, tmp_path: Path) -> None:
    async with tunnel_as(stack, "guarded", tmp_path) as (tunnel, broker):
        await trust_the_host(stack, tunnel)
        await until(lambda: broker.prompt is not None, tunnel.status)
        assert broker.prompt is not None and broker.prompt.host
        broker.answer(broker.prompt.id, [PASSCODE])
        await until(lambda: tunnel.status().state is TunnelState.UP, tunnel.status)
        with pytest.raises(NodeRefusedError, match=r"accepts only users with a running job"):
            await asked(tunnel, SlotTarget(node="node2", port=PORT, loopback=True, deployment="x"))
        assert tunnel.status().state is TunnelState.UP and tunnel.status().nodes["node2"]

        job = await asyncio.to_thread(serve_for_guarded, stack)
        try:
            await until(lambda: node_of(stack, job) != "", lambda: job, 30)
            target = SlotTarget(node=node_of(stack, job), port=PORT, loopback=True, deployment="x")
            await asyncio.sleep(6)
            assert b"200 OK" in await asked(tunnel, target)
            assert broker.prompt is None and tunnel.status().reconnects == 0
            other = "demo-node1" if target.node == "node2" else "demo-node2"
            asks = f"import socket; socket.create_connection(({target.node!r}, {PORT}), 3)"
            refused = await asyncio.to_thread(stack.on, other, ["python3", "-c", asks])
            assert "Connection refused" in refused.output
        finally:
            await asyncio.to_thread(stack.on, "demo-login", ["scancel", job], "guarded")


def serve_for_guarded(stack: Stack) -> str:
    """Submit a job of that user that serves HTTP to its own node; return its id."""
    wrapped = f"exec python3 -m http.server --bind 127.0.0.1 --directory /usr/share/demo {PORT}"
    argv = ["sbatch", "--parsable", "-p", "day", "-t", "5", "-o", "/dev/null", "--mem", "200M", "--wrap", wrapped]
    done = stack.on("demo-login", argv, user="guarded")
    assert done.status == 0, done.output
    return done.stdout.strip()


def node_of(stack: Stack, job: str) -> str:
    return stack.on("demo-login", ["squeue", "-h", "-j", job, "-t", "RUNNING", "-o", "%N"]).stdout.strip()
