"""The gateway's internal API over a fake Slurm in memory: a real HTTP server, one method per program.

Tests move its jobs (`start`, `finish`, ...) and break it by setting `fault`.
"""

from __future__ import annotations

import json
import posixpath
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

TOKEN = "gateway-token"
# of the cluster's printed times, against UTC
ZONE = timedelta(hours=-5)

# exit status, stdout, stderr
ProgramResult = tuple[int, str, str]
# (method, argv[0] or the file's path) -> kind of the problem, None for no fault
Fault = Callable[[str, str], "str | None"]
STATUS = {"tunnel_down": 503, "human_needed": 503, "command_timeout": 504, "file_missing": 404, "remote_refused": 502}


@dataclass
class FakeJob:
    """One job in Slurm."""

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
    elapsed_s: int = 0

    @property
    def is_over(self) -> bool:
        return self.state.split()[0] in {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


class FakeSlurm:
    """slurmctld, slurmdbd and the file system of a cluster."""

    def __init__(self) -> None:
        self.jobs: dict[int, FakeJob] = {}
        self.files: dict[str, bytes] = {}
        # every image is there, but no image of these pins
        self.missing_images: set[str] = set()
        self.calls: list[list[str]] = []
        # the requests of cleanup.py
        self.cleanup_requests: list[dict[str, list[str]]] = []
        self.stdin = ""
        self.controller_forgot: set[int] = set()
        # folders that belong to another user
        self.foreign_folders: set[str] = set()
        # characters of a program's output that the gateway returns
        self.output_limit = 1 << 20
        # jobs that slurmctld has forgotten, and whose end accounting has lost
        self.lost_ends: set[int] = set()
        self.accounting = True
        self.refusal = ""
        # a job_submit plugin: what it prints (to standard output, and for the user), and where it puts jobs
        self.plugin_output = self.plugin_message = self.plugin_partition = ""
        self.nodes = {"node1", "node2"}
        # what scontrol prints of them
        self.reservations = "No reservations in the system\n"
        # what list_models.py reports; None: it cannot run
        self.on_disk: dict[str, object] | None = None
        # what inspect_model.py prints, as it is where it is a string; None: it cannot run
        self.model_inspection: dict[str, object] | str | None = None
        # what list_images.py reports, by pin; None: it cannot run
        self.images: dict[str, dict[str, object]] | None = None
        # scripts that run as they are, by name
        self.real_scripts: dict[str, Path] = {}
        # print times as with SLURM_TIME_FORMAT=%s
        self.epochs = False
        self.fault: Fault = lambda method, what: None
        # the same after the command has run: its answer is lost
        self.lose_answer: Fault = lambda method, what: None
        self._lock = threading.Lock()

    def run(self, argv: list[str], stdin: str = "") -> ProgramResult:
        with self._lock:
            self.calls.append(argv)
            self.stdin = stdin
            program = getattr(self, argv[0], None)
            if program is None:
                return 127, "", f"bash: line 1: {argv[0]}: command not found\n"
            result: ProgramResult = program(argv[1:])
            return result

    def programs(self) -> list[str]:
        return [argv[0] for argv in self.calls]

    # moves by tests

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

    def sbatch(self, arguments: list[str]) -> ProgramResult:
        if self.refusal:
            return 1, "", f"sbatch: error: {self.refusal}\n"
        options = dict(
            argument.removeprefix("--").split("=", 1)
            for argument in arguments
            if "=" in argument and argument.startswith("--")
        )
        if "--test-only" in arguments:
            starts = {"gpu_devel": "2026-11-22T15:00:00", "gpu_h200": "2026-11-22T12:00:00"}
            when = starts.get(options["partition"], "2026-11-22T13:00:00")
            return 0, "", f"sbatch: Job 99 to start at {when} using 6 processors on nodes n1 in partition p\n"
        job_id = len(self.jobs) + 101
        partition = self.plugin_partition or options["partition"]
        self.jobs[job_id] = FakeJob(job_id, options["job-name"], partition, arguments)
        return 0, f"{job_id}\n{self.plugin_output}", self.plugin_message

    def python3(self, arguments: list[str]) -> ProgramResult:
        program = arguments[0].rpartition("/")[2]
        if program in self.real_scripts:
            done = subprocess.run(
                [sys.executable, str(self.real_scripts[program]), *arguments[1:]],
                input=self.stdin, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            return done.returncode, done.stdout, done.stderr
        if program == "download.py":
            return 0, "started\n", ""
        if program == "list_queue.py":
            ours = [job for job in self._live() if job.name.startswith("bouchet-")]
            return 0, "".join(self._queue_line(job) for job in ours), ""
        if program == "cleanup.py":
            return self._clean_up(json.loads(self.stdin))
        if program == "list_images.py" and self.images is not None:
            return self._images(arguments[1:])
        if program == "inspect_model.py" and self.model_inspection is not None:
            return (
                0,
                self.model_inspection if isinstance(self.model_inspection, str) else json.dumps(self.model_inspection),
                "",
            )
        if program != "list_models.py" or self.on_disk is None:
            return 2, "", f"python3: can't open file '{arguments[0]}'\n"
        return 0, json.dumps({"models": self.on_disk, "free_bytes": 10**12}), ""

    def _clean_up(self, request: dict[str, list[str]]) -> ProgramResult:
        self.cleanup_requests.append(request)
        ended = set(request["ended"]) - set(request["live"])
        keys = [f"{request['root']}/jobs/{name}/{secret}" for name in sorted(ended) for secret in ("key", "token")]
        found = [path.split("/")[-2] for path in keys if self.files.pop(path, None) is not None]
        return 0, json.dumps({"secrets": found, "folders": [], "logs": [], "trouble": None}), ""

    def _images(self, arguments: list[str]) -> ProgramResult:
        assert self.images is not None
        if arguments[0] == "list":
            return 0, json.dumps({"images": self.images, "free_bytes": 10**12}), ""
        return 0, f"{self.images.pop(arguments[2])['bytes']}\n", ""

    def squeue(self, arguments: list[str]) -> ProgramResult:
        live = self._live()
        if any(argument.startswith("--Format=") for argument in arguments):
            return 0, "".join(self._held_line(job) for job in live), ""
        has_time = any(argument.startswith("--format=%M|") for argument in arguments)
        return 0, "".join((f"{_run_time(job)}|" if has_time else "") + self._queue_line(job) for job in live), ""

    def _live(self) -> list[FakeJob]:
        return [job for job in self.jobs.values() if not job.is_over and job.job_id not in self.lost_ends]

    def _held_line(self, job: FakeJob) -> str:
        gpus = next((argument.rpartition(":")[2] for argument in job.argv if argument.startswith("--gpus=")), "0")
        return f"{job.state:>20}{job.partition:>60}{f'cpu=2,mem=6G,node=1,gres/gpu={gpus}':>300}\n"

    def _queue_line(self, job: FakeJob) -> str:
        start = self._printed(job.start) if job.start else "N/A"
        node = job.node or "n/a"
        fields = (
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
        return "|".join(str(value) for value in fields) + "\n"

    def scontrol(self, arguments: list[str]) -> ProgramResult:
        if arguments[-1] == "reservations":
            return 0, self.reservations, ""
        if "node" in arguments:
            # as Slurm does: the message is not on stderr
            known = arguments[-1] in self.nodes
            return (
                (0, f"NodeName={arguments[-1]} State=IDLE\n", "")
                if known
                else (1, f"Node {arguments[-1]} not found\n", "")
            )
        job = self.jobs.get(int(arguments[-1])) if arguments[-1].isdigit() else None
        if job is None or job.job_id in self.controller_forgot | self.lost_ends:
            return 1, "", "slurm_load_jobs error: Invalid job id specified\n"
        line = (
            f"JobId={job.job_id} JobName={job.name} UserId=researcher(2001) JobState={job.state.split()[0]} Reason=None"
        )
        rest = f"ExitCode={job.exit_code} Partition={job.partition} NodeList={job.node or '(null)'}"
        return 0, f"{line} RunTime={_run_time(job)} {rest}\n", ""

    def sacct(self, arguments: list[str]) -> ProgramResult:
        if not self.accounting:
            return 1, "", "Slurm accounting storage is disabled\n"
        wanted = next(argument for argument in arguments if argument.startswith(("--jobs=", "--name=")))
        kind, _, value = wanted.partition("=")
        jobs = [j for j in self.jobs.values() if (j.name if kind == "--name" else str(j.job_id)) in value.split(",")]
        if "--duplicates" in arguments:
            # what the ledger asks for
            tres = "cpu=4,gres/gpu=1"
            return 0, "".join(f"{j.job_id}|{j.state}|1|2|{j.elapsed_s}|{tres}|{j.name}\n" for j in jobs), ""
        return 0, "".join(f"{j.job_id}|{j.state}|{j.exit_code}|{j.node}|2001|{j.name}\n" for j in jobs), ""

    def test(self, arguments: list[str]) -> ProgramResult:
        return (1 if arguments[1] in self.foreign_folders else 0), "", ""

    def getent(self, arguments: list[str]) -> ProgramResult:
        return (0, "colleague:x:2003:2003::/home/colleague:/bin/bash\n", "") if arguments[-1] == "2003" else (2, "", "")

    def scancel(self, arguments: list[str]) -> ProgramResult:
        job = self.jobs.get(int(arguments[-1]))
        if job is not None and not job.is_over:
            # SIGTERM to its batch script, which then ends the job
            job.state = "COMPLETED" if "--batch" in arguments else "CANCELLED by 2001"
        return 0, "", ""


def _run_time(job: FakeJob) -> str:
    """Return what Slurm prints of the time that a job has run; a test that sets none has a clock of its own."""
    if job.state == "PENDING":
        return "0:00"
    minutes, seconds = divmod(job.elapsed_s, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}" if job.elapsed_s else "INVALID"


class _GatewayHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    slurm: FakeSlurm

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        body = json.loads(self._body())
        if self._is_faulty("POST", body["argv"][0], self.slurm.fault):
            return
        status, stdout, stderr = self.slurm.run(body["argv"], body.get("stdin") or "")
        if self._is_faulty("POST", body["argv"][0], self.slurm.lose_answer):
            return
        cut = stdout and stdout[: self.slurm.output_limit]
        answer = {"exit_status": status, "stdout": cut, "stderr": stderr, "truncated": cut != stdout}
        self._send(200, json.dumps(answer).encode())

    def do_PUT(self) -> None:
        path, body = self._query("path"), self._body()
        if not self._is_faulty("PUT", path, self.slurm.fault):
            self.slurm.files[path] = body
            self._send(204, b"")

    def do_GET(self) -> None:
        if self.path == "/v1/status":
            status = {"state": "up", "host": "login", "since": datetime.now(UTC).isoformat()}
            self._send(200, json.dumps(status).encode())
            return
        path = self._query("path")
        if self._is_faulty("GET", path, self.slurm.fault):
            return
        whole = self.slurm.files.get(path)
        if whole is None and path.endswith(".sif") and posixpath.basename(path)[:-4] not in self.slurm.missing_images:
            whole = b"SIF"
        if whole is None:
            self._problem("file_missing", f"no such file: {path}")
            return
        offset, limit = int(self._query("offset") or 0), int(self._query("max_bytes") or 1 << 20)
        piece = whole[max(offset, -len(whole)) :] if offset < 0 else whole[offset:]
        self._send(200, piece[:limit], {"X-File-Size": str(len(whole))})

    def _is_faulty(self, method: str, what: str, fault: Fault) -> bool:
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
    """Run a threaded HTTP server on a free port of 127.0.0.1; yield the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class GatewayServer:
    """A running gateway whose cluster can be replaced, so that many tests share one server."""

    url: str
    handler: type[_GatewayHandler]

    def use(self, slurm: FakeSlurm) -> None:
        """Put the gateway before that cluster."""
        self.handler.slurm = slurm


@contextmanager
def gateway_server(slurm: FakeSlurm) -> Iterator[GatewayServer]:
    """Run a gateway; yield it."""
    handler = type("Gateway", (_GatewayHandler,), {"slurm": slurm})
    with serve_http(handler) as port:
        yield GatewayServer(f"http://127.0.0.1:{port}", handler)


@contextmanager
def running_gateway(slurm: FakeSlurm) -> Iterator[str]:
    """Run the gateway of that cluster; yield its URL."""
    with gateway_server(slurm) as server:
        yield server.url


def job_ids(slurm: FakeSlurm, name: str = "") -> list[int]:
    """Return the ids of all jobs, or of those with that name."""
    return [job.job_id for job in slurm.jobs.values() if re.fullmatch(re.escape(name) or ".*", job.name)]
