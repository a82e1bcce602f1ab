"""What idle_watch.sh asks: `python3 probe_vllm.py COMMAND JOB_DIR ...`. Standard library and Python 3.6 only.

idle-timeout JOB_DIR            seconds, 0 for never
probe JOB_DIR PORT SCRATCH      `ok|failing WORK`; WORK changes when vLLM has worked, `busy` while it does
heartbeat JOB_DIR STATE IDLE_S  writes heartbeat-<job id>.json
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

from job_files import Refused, log_path, main, read_spec, write_json
from network import listening

PROBE_TIMEOUT_S = 10


def idle_timeout(job_dir: str) -> None:
    """Prints the seconds after which an unused job ends."""
    print(int(read_spec(job_dir)["idle_timeout_s"]))


def probe(job_dir: str, port: str, scratch: str) -> None:
    """Prints how vLLM is and how much it has done."""
    try:
        with open(os.path.join(job_dir, "key"), encoding="ascii") as source:
            key = source.read().strip()
        metrics = proven_metrics(listening(read_spec(job_dir)["listen"], port, scratch), key)
    except (OSError, ValueError, Refused, http.client.HTTPException):
        print("failing -")
        return
    print("ok %s" % work_in(metrics))


class OverSocket(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PROBE_TIMEOUT_S)
        self.path = path

    def connect(self) -> None:
        """Called by http.client, and by us."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PROBE_TIMEOUT_S)
        self.sock.connect(self.path)


def connection_to(place: Dict[str, Any]) -> http.client.HTTPConnection:
    """A connection that is not open yet. place: as network.listening has it."""
    if place["socket"]:
        return OverSocket(place["socket"])
    return http.client.HTTPConnection("127.0.0.1", place["port"], timeout=PROBE_TIMEOUT_S)


def proven_metrics(place: Dict[str, Any], key: str) -> str:
    """vLLM's /metrics; OSError unless its /health is good. The key goes only to who proves to hold it (guard.py)."""
    port = place["port"] or 0
    nonce = os.urandom(16).hex()
    wanted = hmac.new(key.encode(), b"bouchet-proof %d %s" % (port, nonce.encode()), hashlib.sha256).hexdigest()
    connection = connection_to(place)
    # one connection, so one server: http.client would tacitly open another one
    connection.auto_open = 0
    try:
        connection.connect()
        proof = ask(connection, "/health", {"x-bouchet-nonce": nonce}).getheader("x-bouchet-proof", "")
        if not hmac.compare_digest(proof.encode(), wanted.encode()):
            raise OSError("another program answers on port %d" % port)
        return ask(connection, "/metrics", {"Authorization": "Bearer " + key}).text
    finally:
        connection.close()


class Answer:
    """A good answer, read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.getheader = response.getheader
        self.text = response.read().decode("utf-8", "replace")
        if response.status != 200:
            raise OSError("status %d" % response.status)


def ask(connection: http.client.HTTPConnection, path: str, headers: Dict[str, str]) -> Answer:
    """What the server says; OSError or HTTPException unless it is a good answer."""
    connection.request("GET", path, headers=headers)
    return Answer(connection.getresponse())


def work_in(metrics: str) -> str:
    """`busy` while requests run or wait, else a number that grows with the work done. metrics: Prometheus text."""
    now, done = 0.0, 0.0
    for line in metrics.splitlines():
        found = re.match(r"^vllm:(\w+)(?:\{.*\})? ([-+.0-9eE]+)$", line)
        if not found:
            continue
        name, value = found.group(1), float(found.group(2))
        if name in ("num_requests_running", "num_requests_waiting"):
            now += value
        elif name in ("prompt_tokens_total", "generation_tokens_total", "request_success_total"):
            done += value
    return "busy" if now > 0 else "%.0f" % done


def heartbeat(job_dir: str, state: str, idle_s: str) -> None:
    """Says that the job was looked at, and with what result."""
    spec = read_spec(job_dir)
    document = {"job_name": spec["job_name"], "state": state, "idle_s": int(idle_s), "at": int(time.time())}
    write_json(log_path(spec, "heartbeat-{}.json"), document)


COMMANDS = {"idle-timeout": idle_timeout, "probe": probe, "heartbeat": heartbeat}


if __name__ == "__main__":
    sys.exit(main(sys.argv, COMMANDS))
