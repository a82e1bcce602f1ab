"""What keepalive.sh asks: `python3 watch.py COMMAND JOB_DIR ...`. Standard library and Python 3.6 only.

idle-timeout JOB_DIR            seconds, 0 for never
probe JOB_DIR PORT              `ok|failing WORK`; WORK changes when vLLM has worked, `busy` while it does
heartbeat JOB_DIR STATE IDLE_S  writes heartbeat-<job id>.json
"""

import os
import re
import sys
import time
import urllib.error
import urllib.request

from jobfile import log_path, main, read_spec, write_json

PROBE_TIMEOUT_S = 10


def idle_timeout(job_dir: str) -> None:
    """Prints the seconds after which an unused job ends."""
    print(int(read_spec(job_dir)["idle_timeout_s"]))


def probe(job_dir: str, port: str) -> None:
    """Prints how vLLM is and how much it has done."""
    try:
        ask(port, "/health", "")
        with open(os.path.join(job_dir, "key"), encoding="ascii") as source:
            metrics = ask(port, "/metrics", source.read().strip())
    except (OSError, ValueError, urllib.error.URLError):
        print("failing -")
        return
    print("ok %s" % work_in(metrics))


def ask(port: str, path: str, key: str) -> str:
    """The body of vLLM's answer; raises URLError or OSError unless it is a good one. Proxies are not asked."""
    request = urllib.request.Request("http://127.0.0.1:%s%s" % (port, path))
    if key:
        request.add_header("Authorization", "Bearer " + key)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=PROBE_TIMEOUT_S) as response:
        body = response.read()  # type: bytes
    return body.decode("utf-8", "replace")


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
