"""Faults made on purpose: a launch is staged where nothing starts, its files are changed, then it is let go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.proxy.stream_checker import check_stream
from tests.stack.conftest import SMALL
from tests.stack.harness import Stack
from tests.waiting import wait_for

NODES = ("node1", "node2")
ROOT = "/home/researcher/bouchet-llm"
LOGS = f"{ROOT}/logs"
MODEL = "demo/scripted"
# jobs wait in the one, which is switched off meanwhile, and run in the other
WAITS, RUNS = "scavenge_gpu", "day"
NEWS_S, END_S = 60, 120


@dataclass(frozen=True)
class Staged:
    """A deployment whose job is in the queue and does not start."""

    id: str
    name: str
    slurm_id: int
    job_name: str

    @property
    def folder(self) -> str:
        """Folder of its job's files."""
        return f"{ROOT}/jobs/{self.job_name}"


def shell(stack: Stack, service: str, script: str, user: str = "researcher") -> str:
    """Run a script that must succeed, and return its output."""
    done = stack.on(service, ["sh", "-c", script], user=user)
    assert done.status == 0, (script, done.output)
    return done.stdout


def mounting(stack: Stack, node: str, script: str) -> None:
    """Run a script that changes a node's mounts, which the node itself may not."""
    container = stack.container(f"demo-{node}")
    assert container.image is not None
    stack.docker.containers.run(
        container.image,
        ["-t", "1", "-m", "sh", "-c", script],
        entrypoint="nsenter",
        pid_mode=f"container:{container.id}",
        network_mode="none",
        cap_add=["SYS_ADMIN", "SYS_PTRACE"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        remove=True,
    )


def slurm_root(stack: Stack, *words: str) -> str:
    """Run scontrol as Slurm's own user."""
    done = stack.on("demo-ctl", ["scontrol", *words])
    assert done.status == 0, done.output
    return done.stdout


@contextmanager
def nothing_starts(stack: Stack) -> Iterator[None]:
    """Take the partition down: launches are submitted and stay queued."""
    slurm_root(stack, "update", f"partitionname={WAITS}", "state=down")
    try:
        yield
    finally:
        slurm_root(stack, "update", f"partitionname={WAITS}", "state=up")


def stage(stack: Stack, name: str, **options: Any) -> Staged:
    """Launch the scripted model, and wait until its job is queued."""
    body = {"model": MODEL, "name": name, "partition": WAITS, "time": "01:00:00", **options}
    with stack.api() as api:
        answer = api.post("/v1/deployments", json=body)
    assert answer.status_code == 202, answer.text
    identity = str(answer.json()["id"])

    def submitted() -> Any:
        jobs = stack.deployment(identity)["jobs"]
        return jobs[-1] if jobs and jobs[-1]["slurm_id"] else None

    job = wait_for(submitted, NEWS_S, lambda: str(stack.deployment(identity)))
    return Staged(identity, name, job["slurm_id"], job["name"])


def change_spec(stack: Stack, staged: Staged, **fields: Any) -> None:
    """Change values in its spec.json."""
    path = f"{staged.folder}/spec.json"
    # Docker loses the output of a short command now and then
    text = wait_for(lambda: shell(stack, "demo-login", f"cat {path}"), NEWS_S)
    spec = {**json.loads(text), **fields}
    shell(stack, "demo-login", f"cat > {path} <<'END'\n{json.dumps(spec)}\nEND")


def let_go(stack: Stack, staged: Staged, node: str = "") -> None:
    """Let the job start, on `node` only if one is named."""
    where = [f"reqnodelist={node}"] if node else []
    slurm_root(stack, "update", f"jobid={staged.slurm_id}", f"partition={RUNS}", *where)


def ended(stack: Stack, staged: Staged, timeout_s: float = END_S) -> dict[str, Any]:
    """Wait for its end, and return the record."""
    return stack.wait_for_phase(staged.id, "ended", timeout_s=timeout_s)


def end(stack: Stack, staged: Sequence[Staged]) -> None:
    """Cancel the deployments that are left."""
    with stack.api() as api:
        for one in staged:
            api.delete(f"/v1/deployments/{one.id}")
    for one in staged:
        ended(stack, one)


def demo_node(stack: Stack) -> str:
    """Return the node of the demo's own model."""
    return str(stack.wait_for_phase(SMALL, "ready")["jobs"][-1]["node"])


def spare_node(stack: Stack) -> str:
    """Return the other node."""
    return next(node for node in NODES if node != demo_node(stack))


def left_behind(stack: Stack, slurm_ids: Sequence[int]) -> list[str]:
    """List scratch folders, partial files and connection files of those jobs, and processes on idle nodes."""
    found: list[str] = []
    busy = stack.slurm("squeue", "-h", "-t", "R,CG", "-o", "%N")
    for node in NODES:
        found += [
            line
            for line in stack.on(f"demo-{node}", ["sh", "-c", "ls -d /tmp/bouchet-* 2>/dev/null"]).stdout.split()
            if any(f"bouchet-{one}-" in line for one in slurm_ids)
        ]
        if node not in busy:
            processes = stack.on(f"demo-{node}", ["pgrep", "-au", "researcher"]).stdout.splitlines()
            found += [f"{node}: {line}" for line in processes if "sshd" not in line and "systemd" not in line]
    names = stack.on("demo-login", ["ls", LOGS], user="researcher").stdout.split()
    found += [name for name in names if name.endswith(".tmp") and any(f"-{one}.json" in name for one in slurm_ids)]
    found += [name for name in names if name in [f"connection-{one}.json" for one in slurm_ids]]
    return found


def nothing_left(stack: Stack, slurm_ids: Sequence[int]) -> None:
    """Wait until all traces of those jobs are gone."""
    wait_for(lambda: not left_behind(stack, slurm_ids), 30, lambda: str(left_behind(stack, slurm_ids)))


class Stream:
    """A stream of the scripted model, listened to in a thread of its own; its events must be legal."""

    def __init__(self, stack: Stack, model: str, script: str, max_tokens: int = 4096) -> None:
        self.status, self.body, self.error = 0, b"", ""
        self.began = threading.Event()
        self._stack, self._model, self._script, self._max_tokens = stack, model, script, max_tokens
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        body = {"model": self._model, "max_tokens": self._max_tokens, "stream": True}
        body["messages"] = [{"role": "user", "content": self._script}]
        try:
            with self._stack.proxy() as proxy, proxy.stream("POST", "/v1/messages", json=body) as answer:
                self.status = answer.status_code
                for piece in answer.iter_bytes():
                    self.body += piece
                    if b"content_block_delta" in self.body:
                        self.began.set()
        except httpx.HTTPError as exc:
            self.error = repr(exc)
        finally:
            self.began.set()

    @property
    def is_open(self) -> bool:
        """Whether its answer has not ended."""
        return self._thread.is_alive()

    def answered(self) -> bool:
        """Wait for the response, and tell whether it was accepted."""
        assert self.began.wait(60)
        return self.status == 200

    def under_way(self) -> Stream:
        """Wait for the first content, and return the stream."""
        assert self.began.wait(60) and self.status == 200 and not self.error, (self.status, self.error, self.body)
        return self

    def last(self, timeout_s: float = 90) -> str:
        """Return the type of its last event."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"after {timeout_s} s it is still open: {self.body[-300:]!r}"
        assert not self.error, self.error
        check_stream("/v1/messages", self.body, cut_off=False)
        events = [json.loads(line[6:]) for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return str(events[-1]["type"])
