"""A gateway's inside door with a small Slurm behind it, in memory: a real HTTP server, one method per program.

Tests move its jobs by hand (`start`, `finish`, ...) and break it by setting `fault`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TOKEN = "gateway-token"
# the cluster's clock shows local time, five hours behind UTC
ZONE = timedelta(hours=-5)

Answer = tuple[int, str, str]
# (method, what) -> problem kind, or None for no fault; what is argv[0] or the file's path
Fault = Callable[[str, str], "str | None"]
STATUS = {"tunnel_down": 503, "human_needed": 503, "command_timeout": 504, "file_missing": 404, "remote_refused": 502}


@dataclass
class FakeJob:
    """One job as Slurm knows it."""

    job_id: int
    name: str
    partition: str
    argv: list[str]
    state: str = "PENDING"
    reason: str = "Priority"
    node: str = ""
    exit_code: str = "0:0"
    submitted: datetime = field(default_factory=lambda: datetime.now(UTC))
    start: datetime | None = None

    @property
    def is_over(self) -> bool:
        return self.state.split()[0] in {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


class FakeSlurm:
    """slurmctld, accounting and the file system of a cluster."""

    def __init__(self) -> None:
        self.jobs: dict[int, FakeJob] = {}
        self.files: dict[str, bytes] = {}
        self.calls: list[list[str]] = []
        # what our own tidying was asked, each time
        self.tidied: list[dict[str, list[str]]] = []
        self.stdin = ""
        self.controller_forgot: set[int] = set()
        self.accounting = True
        self.refusal = ""
        # what our own look at the models' folder would print; None: it cannot run
        self.on_disk: dict[str, object] | None = None
        # the same of one model; a text is printed as it is
        self.model_look: dict[str, object] | str | None = None
        # what our look at the images' folder would print, by pin; None: it cannot run
        self.images: dict[str, dict[str, object]] | None = None
        # as with SLURM_TIME_FORMAT=%s
        self.epochs = False
        self.fault: Fault = lambda method, what: None
        # called after a command has run; its answer may be lost then
        self.lose_answer: Fault = lambda method, what: None
        self._lock = threading.Lock()

    def run(self, argv: list[str], stdin: str = "") -> Answer:
        with self._lock:
            self.calls.append(argv)
            self.stdin = stdin
            method = getattr(self, argv[0])
            answer: Answer = method(argv[1:])
            return answer

    def programs(self) -> list[str]:
        return [argv[0] for argv in self.calls]

    # tests move jobs

    def start(self, job_id: int, node: str = "node1") -> None:
        job = self.jobs[job_id]
        job.state, job.reason, job.node, job.start = "RUNNING", "None", node, datetime.now(UTC)

    def requeue(self, job_id: int) -> None:
        job = self.jobs[job_id]
        job.state, job.reason, job.node, job.start = "PENDING", "BeginTime", "", None

    def finish(self, job_id: int, state: str, exit_code: str = "0:0") -> None:
        job = self.jobs[job_id]
        job.state, job.exit_code = state, exit_code

    def _printed(self, moment: datetime) -> str:
        return str(int(moment.timestamp())) if self.epochs else (moment + ZONE).strftime("%Y-%m-%dT%H:%M:%S")

    # programs

    def sbatch(self, words: list[str]) -> Answer:
        if self.refusal:
            return 1, "", f"sbatch: error: {self.refusal}\n"
        options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word and word.startswith("--"))
        if "--test-only" in words:
            when = {"gpu_devel": "2026-11-22T15:00:00", "gpu_h200": "2026-11-22T12:00:00"}[options["partition"]]
            return 0, "", f"sbatch: Job 99 to start at {when} using 6 processors on nodes n1 in partition p\n"
        job_id = len(self.jobs) + 101
        self.jobs[job_id] = FakeJob(job_id, options["job-name"], options["partition"], words)
        return 0, f"{job_id}\n", ""

    def python3(self, words: list[str]) -> Answer:
        program = words[0].rpartition("/")[2]
        if program == "download.py":
            return 0, "started\n", ""
        if program == "cleanup.py":
            return self._tidy(json.loads(self.stdin))
        if program == "list_images.py" and self.images is not None:
            return self._images(words[1:])
        if program == "inspect_model.py" and self.model_look is not None:
            return 0, self.model_look if isinstance(self.model_look, str) else json.dumps(self.model_look), ""
        if program != "list_models.py" or self.on_disk is None:
            return 2, "", f"python3: can't open file '{words[0]}'\n"
        return 0, json.dumps({"models": self.on_disk, "free_bytes": 10**12}), ""

    def _tidy(self, asked: dict[str, list[str]]) -> Answer:
        self.tidied.append(asked)
        ended = set(asked["ended"]) - set(asked["live"])
        keys = [f"{asked['root']}/jobs/{name}/{secret}" for name in sorted(ended) for secret in ("key", "token")]
        found = [path.split("/")[-2] for path in keys if self.files.pop(path, None) is not None]
        return 0, json.dumps({"secrets": found, "folders": [], "logs": [], "trouble": None}), ""

    def _images(self, words: list[str]) -> Answer:
        assert self.images is not None
        if words[0] == "list":
            return 0, json.dumps({"images": self.images, "free_bytes": 10**12}), ""
        return 0, f"{self.images.pop(words[2])['bytes']}\n", ""

    def squeue(self, words: list[str]) -> Answer:
        live = [job for job in self.jobs.values() if not job.is_over]
        if any(word.startswith("--Format=") for word in words):
            return 0, "".join(self._held_line(job) for job in live), ""
        return 0, "".join(self._queue_line(job) for job in live), ""

    def _held_line(self, job: FakeJob) -> str:
        gpus = next((word.rpartition(":")[2] for word in job.argv if word.startswith("--gpus=")), "0")
        return f"{job.state:>20}{job.partition:>60}{f'cpu=2,mem=6G,node=1,gres/gpu={gpus}':>300}\n"

    def _queue_line(self, job: FakeJob) -> str:
        start = self._printed(job.start) if job.start else "N/A"
        node = job.node or "n/a"
        words = (
            job.job_id,
            job.state,
            job.reason,
            start,
            self._printed(job.submitted),
            node,
            job.node,
            job.partition,
            job.name,
        )
        return "|".join(str(word) for word in words) + "\n"

    def scontrol(self, words: list[str]) -> Answer:
        job = self.jobs.get(int(words[-1]))
        if job is None or job.job_id in self.controller_forgot:
            return 1, "", "slurm_load_jobs error: Invalid job id specified\n"
        line = (
            f"JobId={job.job_id} JobName={job.name} UserId=researcher(2001) JobState={job.state.split()[0]} Reason=None"
        )
        return 0, f"{line} ExitCode={job.exit_code} Partition={job.partition} NodeList={job.node or '(null)'}\n", ""

    def sacct(self, words: list[str]) -> Answer:
        if not self.accounting:
            return 1, "", "Slurm accounting storage is disabled\n"
        wanted = next(word for word in words if word.startswith(("--jobs=", "--name=")))
        kind, _, value = wanted.partition("=")
        jobs = [j for j in self.jobs.values() if (j.name if kind == "--name" else str(j.job_id)) in value.split(",")]
        return 0, "".join(f"{j.job_id}|{j.state}|{j.exit_code}|{j.node}|2001|{j.name}\n" for j in jobs), ""

    def getent(self, words: list[str]) -> Answer:
        return (0, "colleague:x:2003:2003::/home/colleague:/bin/bash\n", "") if words[-1] == "2003" else (2, "", "")

    def scancel(self, words: list[str]) -> Answer:
        job = self.jobs.get(int(words[-1]))
        if job is not None and not job.is_over:
            # asked to end, its script ends it
            job.state = "COMPLETED" if "--batch" in words else "CANCELLED by 2001"
        return 0, "", ""


class _Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    slurm: FakeSlurm

    def log_message(self, format: str, *args: object) -> None:
        """Tests read the records, not this."""

    def do_POST(self) -> None:
        body = json.loads(self._body())
        if self._faulty("POST", body["argv"][0], self.slurm.fault):
            return
        status, stdout, stderr = self.slurm.run(body["argv"], body.get("stdin") or "")
        if self._faulty("POST", body["argv"][0], self.slurm.lose_answer):
            return
        answer = {"exit_status": status, "stdout": stdout, "stderr": stderr, "truncated": False}
        self._send(200, json.dumps(answer).encode())

    def do_PUT(self) -> None:
        path, body = self._query("path"), self._body()
        if not self._faulty("PUT", path, self.slurm.fault):
            self.slurm.files[path] = body
            self._send(204, b"")

    def do_GET(self) -> None:
        if self.path == "/v1/status":
            status = {"state": "up", "host": "login", "since": datetime.now(UTC).isoformat()}
            self._send(200, json.dumps(status).encode())
            return
        path = self._query("path")
        if self._faulty("GET", path, self.slurm.fault):
            return
        whole = self.slurm.files.get(path)
        if whole is None:
            self._problem("file_missing", f"no such file: {path}")
            return
        offset, limit = int(self._query("offset") or 0), int(self._query("max_bytes") or 1 << 20)
        piece = whole[max(offset, -len(whole)) :] if offset < 0 else whole[offset:]
        self._send(200, piece[:limit], {"X-File-Size": str(len(whole))})

    def _faulty(self, method: str, what: str, fault: Fault) -> bool:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._send(401, b"")
            return True
        kind = fault(method, what)
        if kind is not None:
            self._problem(kind, f"a fault of the test: {kind}")
        return kind is not None

    def _query(self, name: str) -> str:
        return parse_qs(urlsplit(self.path).query).get(name, [""])[0]

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _problem(self, kind: str, detail: str) -> None:
        self._send(STATUS[kind], json.dumps({"kind": kind, "detail": detail}).encode())

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serve_http(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """A threaded HTTP server on a free port of 127.0.0.1; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def running_gateway(slurm: FakeSlurm) -> Iterator[str]:
    """The door of that cluster; yields its URL."""
    with serve_http(type("Door", (_Door,), {"slurm": slurm})) as port:
        yield f"http://127.0.0.1:{port}"


def job_ids(slurm: FakeSlurm, name: str = "") -> list[int]:
    """Ids of all jobs ever submitted, or of those of that name."""
    return [job.job_id for job in slurm.jobs.values() if re.fullmatch(re.escape(name) or ".*", job.name)]
