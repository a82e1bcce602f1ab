"""`make up` from a person's side: an answer at the end, nothing changed by a second time."""

from __future__ import annotations

import re
import stat
import subprocess

import httpx

from tests.stack.conftest import SMALL
from tests.stack.harness import ENV_FILE, LOCAL_SERVICES, ROOT, Finished, Stack, make_env_file


def test_make_up_prints_curl_line_and_answer(first_up: tuple[Stack, Finished]) -> None:
    stack, finished = first_up
    assert "curl" in finished.stdout and "/v1/messages" in finished.stdout
    assert stack.key not in finished.output and stack.admin_key not in finished.output
    assert "answer" in finished.stdout.lower()


def test_printed_curl_line_works(first_up: tuple[Stack, Finished]) -> None:
    _, finished = first_up
    found = re.search(r"^\s*(curl (?:.*\\\n)*.*)$", finished.stdout, re.M)
    assert found, finished.stdout
    script = f"set -eu; . ./{ENV_FILE.name}; {found[1]}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '"type":"message"' in done.stdout.replace(" ", "")


def test_demo_model_runs_in_slurm_job(stack: Stack) -> None:
    job = stack.deployment(SMALL)["jobs"][-1]
    line = stack.slurm("squeue", "-h", "-j", str(job["slurm_id"]), "-o", "%T|%N|%j|%P")
    assert line.strip() == f"RUNNING|{job['node']}|{job['name']}|{job['placement']['partition']}"
    assert len(job["image_sha256"]) == 64
    assert job["vllm_version"].startswith("0.32.0")


def test_env_file_is_private_and_unchanged(stack: Stack) -> None:
    before = ENV_FILE.read_bytes()
    assert stat.S_IMODE(ENV_FILE.stat().st_mode) == 0o600
    assert stack.make("up").status == 0
    assert ENV_FILE.read_bytes() == before


def test_make_up_again_changes_nothing(stack: Stack) -> None:
    def running() -> dict[str, tuple[str, str]]:
        alive = {name: c for name, c in stack.containers().items() if c.attrs["State"]["Running"]}
        return {name: (c.id or "", c.attrs["State"]["StartedAt"]) for name, c in alive.items()}

    before, jobs = running(), stack.slurm("squeue", "-h", "-o", "%i %T")
    finished = stack.make("up")
    assert finished.status == 0, finished.output
    assert running() == before
    assert stack.slurm("squeue", "-h", "-o", "%i %T") == jobs


def test_make_up_prints_steps_with_times(first_up: tuple[Stack, Finished]) -> None:
    _, finished = first_up
    assert len(re.findall(r"\d+(\.\d+)? ?s\b", finished.output)) >= 5


def test_services_are_healthy(stack: Stack) -> None:
    stack.wait_healthy(*LOCAL_SERVICES)


def test_health_needs_no_key(stack: Stack) -> None:
    assert httpx.get(f"{stack.api_url}/healthz", timeout=5).status_code == 200
    assert httpx.get(f"{stack.proxy_url}/health/liveliness", timeout=5).status_code == 200


def test_local_containers_use_at_most_750_mib(stack: Stack) -> None:
    used = {service: stack.memory_mib(service) for service in LOCAL_SERVICES}
    assert sum(used.values()) <= 750, used


def test_new_env_file_over_old_volumes_reaches_the_running_job(stack: Stack) -> None:
    """A fresh clone beside the volumes of the old one: every secret is another, the model still answers."""
    ports = [int(url.rpartition(":")[2]) for url in (stack.proxy_url, stack.api_url)]
    job, old_key = stack.deployment(SMALL)["jobs"][-1], stack.key
    ENV_FILE.unlink()
    make_env_file(*ports)
    finished = stack.make("up")
    assert finished.status == 0, finished.output
    assert stack.key != old_key
    assert stack.deployment(SMALL)["jobs"][-1]["slurm_id"] == job["slurm_id"]


def test_make_up_taken_port_starts_nothing(stack: Stack) -> None:
    other = ROOT / ".env.porttest"
    other.write_text(ENV_FILE.read_text())
    other.chmod(0o600)
    try:
        done = stack.make("up", COMPOSE_PROJECT_NAME="bouchet-porttest", BOUCHET_ENV_FILE=other.name)
        assert done.status != 0
        port = stack.proxy_url.rpartition(":")[2]
        assert port in done.output and "PROXY_PORT" in done.output
        left = stack.docker.containers.list(all=True, filters={"label": "com.docker.compose.project=bouchet-porttest"})
        assert left == []
    finally:
        other.unlink()
        stack.make("remove", COMPOSE_PROJECT_NAME="bouchet-porttest", BOUCHET_ENV_FILE=other.name)
