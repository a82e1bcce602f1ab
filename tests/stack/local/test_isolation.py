"""What the containers may do, seen from outside and from inside them."""

from __future__ import annotations

import re

import pytest
from bouchet_core.keys import NONCE_HEADER, PROOF_HEADER, new_nonce, proves

from tests.stack.conftest import SMALL
from tests.stack.harness import ENV_FILE, LOCAL_SERVICES, Stack
from tests.waiting import wait_for

DIAL = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3); print('open')"


@pytest.mark.parametrize("service", LOCAL_SERVICES)
def test_container_has_no_privileges(stack: Stack, service: str) -> None:
    host = stack.container(service).attrs["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert not any("docker.sock" in bind for bind in host["Binds"] or [])


@pytest.mark.parametrize("service", LOCAL_SERVICES)
def test_container_runs_as_unprivileged_user(stack: Stack, service: str) -> None:
    top = stack.container(service).top(ps_args="-eo uid,pid,args")
    assert {row[0] for row in top["Processes"]}.isdisjoint({"0"})


def test_ports_are_published_on_loopback_only(stack: Stack) -> None:
    published = {
        service: {binding["HostIp"] for bindings in ports.values() for binding in bindings or []}
        for service, container in stack.containers().items()
        if any((ports := container.attrs["NetworkSettings"]["Ports"] or {}).values())
    }
    assert published == {"proxy": {"127.0.0.1"}, "api": {"127.0.0.1"}}


@pytest.mark.parametrize("service", LOCAL_SERVICES)
def test_container_environment_and_arguments_have_no_secret(stack: Stack, service: str) -> None:
    secrets = [
        line.split("=", 1)[1]
        for line in ENV_FILE.read_text().splitlines()
        if line.startswith(
            ("BOUCHET_ADMIN_KEY=", "BOUCHET_API_KEY=", "REDIS_PASSWORD=", "GATEWAY_TOKEN=", "SERVING_SECRET=")
        )
    ]
    assert len(secrets) == 5
    inspected = str(stack.container(service).attrs) + str(stack.container(service).top(ps_args="-eo uid,pid,args"))
    assert not [secret for secret in secrets if secret in inspected]
    assert not [secret for secret in secrets if secret in stack.container(service).logs().decode()]


@pytest.mark.parametrize("service", ["proxy", "api", "worker"])
def test_login_node_is_reached_by_gateway_only(stack: Stack, service: str) -> None:
    networks = stack.container("demo-login").attrs["NetworkSettings"]["Networks"]
    for target in [network["IPAddress"] for network in networks.values()]:
        finished = stack.on(service, ["python", "-c", DIAL, target, "22"])
        assert finished.status != 0, f"{service} reached {target}:22"
    # the dialling itself works
    assert stack.on(service, ["python", "-c", DIAL, "gateway", "8090"]).status == 0


def test_proxy_has_no_ssh_material(stack: Stack) -> None:
    mounts = {mount["Destination"] for mount in stack.container("proxy").attrs["Mounts"]}
    assert not [place for place in mounts if "ssh" in place or "demo" in place]
    assert stack.on("proxy", ["sh", "-c", "command -v ssh"]).status != 0


def test_gateway_has_one_ssh_connection(stack: Stack) -> None:
    with stack.api() as api:
        status = api.get("/v1/tunnel").raise_for_status().json()
    assert (status["state"], status["connections"]) == ("up", 1)
    peers = stack.on("demo-login", ["ss", "-Htn", "state", "established", "sport", "=", ":22"]).stdout.splitlines()
    assert len(peers) == 1, peers


def test_job_files_are_private(stack: Stack) -> None:
    job = stack.deployment(SMALL)["jobs"][-1]
    found = stack.slurm(
        "find", "/home/researcher/bouchet-llm/logs", "-name", f"connection-{job['slurm_id']}.json", "-printf", "%m"
    )
    assert found == "600"
    loose = stack.slurm("find", "/home/researcher/bouchet-llm", "-type", "f", "-name", "key", "-perm", "/077")
    assert loose == ""


def status_of(stack: Stack, url: str) -> str:
    """Return the HTTP status of a GET from the login node. Docker sometimes loses the output of a short command."""
    return wait_for(lambda: stack.slurm("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url), 30)


def test_vllm_without_key_is_401(stack: Stack) -> None:
    job = stack.deployment(SMALL)["jobs"][-1]
    base = f"http://{job['node']}:{job['port']}"
    paths = ("/v1/models", "/metrics", "/invocations", "/tokenize")
    assert {path: status_of(stack, base + path) for path in paths} == dict.fromkeys(paths, "401")
    assert status_of(stack, base + "/health") == "200"


def test_vllm_authenticates_itself(stack: Stack) -> None:
    job = stack.deployment(SMALL)["jobs"][-1]
    key = stack.slurm("cat", f"/home/researcher/bouchet-llm/jobs/{job['name']}/key").strip()
    nonce, address = new_nonce(), f"http://{job['node']}:{job['port']}/health"
    heads = stack.slurm("curl", "-s", "-D", "-", "-o", "/dev/null", "-H", f"{NONCE_HEADER}: {nonce}", address)
    found = re.search(rf"(?im)^{PROOF_HEADER}: (\w+)\r?$", heads)
    assert found and proves(key, nonce, job["port"], found[1]), heads


def test_process_list_on_node_has_no_key(stack: Stack) -> None:
    job = stack.deployment(SMALL)["jobs"][-1]
    node = f"demo-{job['node']}"
    key = stack.slurm("cat", f"/home/researcher/bouchet-llm/jobs/{job['name']}/key").strip()
    assert len(key) == 64
    assert key not in stack.on(node, ["ps", "-eww", "-o", "args"]).stdout
