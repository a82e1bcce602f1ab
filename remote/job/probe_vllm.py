"""Health and activity of a job's vLLM, for idle_watch.sh: `python3 probe_vllm.py COMMAND JOB_DIR ...`. Python 3.6.

idle-timeout JOB_DIR            print the idle timeout in seconds, 0 for never
probe JOB_DIR PORT SCRATCH      print `ok|failing WORK`; WORK changes when vLLM has worked, `busy` while it does
heartbeat JOB_DIR STATE IDLE_S  write heartbeat-<job id>.json
"""

import hashlib
import hmac
import http.client
import os
import re
import socket
import sys
import time
from typing import Any, Dict

from job_files import Commands, JobRefusedError, log_path, read_spec, run_command, write_json
from network import listening

PROBE_TIMEOUT_S = 10


def idle_timeout(job_dir: str) -> None:
    """Print the seconds after which an unused job ends."""
    print(int(read_spec(job_dir)["idle_timeout_s"]))


def probe(job_dir: str, port: str, scratch: str) -> None:
    """Print whether vLLM is healthy and how much it has done."""
    try:
        with open(os.path.join(job_dir, "key"), encoding="ascii") as source:
            key = source.read().strip()
        metrics = authenticated_metrics(listening(read_spec(job_dir)["listen"], port, scratch), key)
    except (OSError, ValueError, JobRefusedError, http.client.HTTPException):
        print("failing -")
        return
    print("ok %s" % work_done(metrics))


class UnixHTTPConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PROBE_TIMEOUT_S)
        self.path = path

    def connect(self) -> None:
        """Connect; http.client calls this too."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PROBE_TIMEOUT_S)
        self.sock.connect(self.path)


def connection_to(server: Dict[str, Any]) -> http.client.HTTPConnection:
    """Return a connection that is not open yet. server: as network.listening returns it."""
    if server["socket"]:
        return UnixHTTPConnection(server["socket"])
    return http.client.HTTPConnection("127.0.0.1", server["port"], timeout=PROBE_TIMEOUT_S)


def authenticated_metrics(server: Dict[str, Any], key: str) -> str:
    """Return vLLM's /metrics. The key is sent only after the server has proved that it has it too (guard.py).

    OSError when /health fails, or another program answers.
    """
    port = server["port"] or 0
    nonce = os.urandom(16).hex()
    wanted = hmac.new(key.encode(), b"bouchet-proof %d %s" % (port, nonce.encode()), hashlib.sha256).hexdigest()
    connection = connection_to(server)
    # one connection is one server: http.client would open another one without notice
    connection.auto_open = 0
    try:
        connection.connect()
        proof = get(connection, "/health", {"x-bouchet-nonce": nonce}).getheader("x-bouchet-proof", "")
        if not hmac.compare_digest(proof.encode(), wanted.encode()):
            raise OSError("another program answers on port %d" % port)
        return get(connection, "/metrics", {"Authorization": "Bearer " + key}).text
    finally:
        connection.close()


class SuccessfulResponse:
    """A response with status 200, read to its end. OSError with another status."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.getheader = response.getheader
        self.text = response.read().decode("utf-8", "replace")
        if response.status != 200:
            raise OSError("status %d" % response.status)


def get(connection: http.client.HTTPConnection, path: str, headers: Dict[str, str]) -> SuccessfulResponse:
    """Send a GET request; OSError or HTTPException unless the status is 200."""
    connection.request("GET", path, headers=headers)
    return SuccessfulResponse(connection.getresponse())


def work_done(metrics: str) -> str:
    """Return `busy` while requests run or wait, else a number that grows with the work. metrics: Prometheus text."""
    current, total = 0.0, 0.0
    for line in metrics.splitlines():
        found = re.match(r"^vllm:(\w+)(?:\{.*\})? ([-+.0-9eE]+)$", line)
        if not found:
            continue
        name, value = found.group(1), float(found.group(2))
        if name in ("num_requests_running", "num_requests_waiting"):
            current += value
        elif name in ("prompt_tokens_total", "generation_tokens_total", "request_success_total"):
            total += value
    return "busy" if current > 0 else "%.0f" % total


def heartbeat(job_dir: str, state: str, idle_s: str) -> None:
    """Write the heartbeat file: the result and time of the last probe."""
    spec = read_spec(job_dir)
    document = {"job_name": spec["job_name"], "state": state, "idle_s": int(idle_s), "at": int(time.time())}
    write_json(log_path(spec, "heartbeat-{}.json"), document)


COMMANDS: Commands = {"idle-timeout": idle_timeout, "probe": probe, "heartbeat": heartbeat}


if __name__ == "__main__":
    sys.exit(run_command(sys.argv, COMMANDS))
