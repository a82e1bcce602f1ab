"""Runs the conformance table against this proxy, vLLM itself and LiteLLM as it comes, and drives real clients.

Starts a stack of its own. Returns 1 if this proxy is wrong anywhere, or a client does not work with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.clients.drive import Served, drive_all
from tests.conftest import free_port
from tests.proxy.environment import wait_until_live
from tests.stack.harness import Stack, open_stack, say

from .described import fuzz
from .run import Target, Verdict, render, run_cases
from .tool_suite import check_dialects

SCRIPTED, SMALL = "bouchet-scripted", "bouchet-smollm2"
OURS = "this proxy"
FUZZ_S = 180


def main() -> int:
    """Start the stack, run everything, print the tables."""
    stack = open_stack()
    try:
        done = stack.make("up")
        assert done.status == 0, done.output
        launched = stack.bouchet("launch", "demo/scripted", "--partition", "gpu_h200", "--no-wait", "--json")
        assert launched.status == 0, launched.output
        stack.wait_for_phase(SCRIPTED, "ready")
        results = compare(stack)
        clients = drive_clients(stack)
        say("conformance: schemathesis")
        is_described, printed = fuzz(stack.proxy_url, stack.key, FUZZ_S)
    finally:
        if not os.environ.get("BOUCHET_TEST_KEEP"):
            stack.remove()
        stack.close()
    print(render(results))
    wrong = [verdict for verdict in results[OURS] if verdict.problem]
    print("\n".join(f"{verdict.case}: {verdict.problem}" for verdict in wrong))
    print("\n".join(f"{title:30} {problem or 'ok'}" for title, problem in clients.items()))
    print("" if is_described else printed)
    return 1 if wrong or any(clients.values()) or not is_described else 0


def drive_clients(stack: Stack) -> dict[str, str]:
    """Install and drive each client and suite; return what went wrong by name and version, '' for nothing."""
    say("conformance: real clients")
    window = stack.deployment(SCRIPTED)["jobs"][-1]["window"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = drive_all(Served(stack.proxy_url, stack.key, SCRIPTED, window), Path(folder))
        say("conformance: tool-eval-bench")
        return found | check_dialects(stack.proxy_url, stack.key, SCRIPTED, Path(folder) / "suite")


def compare(stack: Stack) -> dict[str, list[Verdict]]:
    """Run the table against each server."""
    models = {"scripted": SCRIPTED, "small": SMALL}
    ours = Target(OURS, stack.proxy_url, stack.key, models, is_ours=True)
    say(f"conformance: {OURS}")
    results = {OURS: run_cases(ours)}
    say("conformance: vLLM itself")
    results["vLLM"] = run_cases(Target("vLLM", stack.proxy_url, stack.key, models, passes_through=True))
    say("conformance: LiteLLM as it comes")
    with stock_litellm(stack, models) as stock:
        results["LiteLLM"] = run_cases(stock)
    return results


@contextmanager
def stock_litellm(stack: Stack, models: dict[str, str]) -> Iterator[Target]:
    """Start LiteLLM from our image without our code, in front of the same two models."""
    port, key, name = free_port(), "sk-conformance", f"bouchet-conformance-litellm-{os.getpid()}"
    image = f"bouchet/proxy:{os.environ.get('BOUCHET_IMAGE_TAG', 'dev')}"
    entries = [
        {
            "model_name": alias,
            "litellm_params": {
                "model": f"hosted_vllm/{alias}",
                "api_base": f"{stack.proxy_url}/passthrough/{alias}/v1",
                "api_key": stack.key,
            },
        }
        for alias in models.values()
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "litellm.yaml"
        config.write_text(yaml.safe_dump({"model_list": entries}))
        # the container's user reads it
        Path(folder).chmod(0o755)
        config.chmod(0o644)
        variables = ("LITELLM_MASTER_KEY=" + key, "CONFIG_FILE_PATH=/litellm.yaml", "LITELLM_LOCAL_MODEL_COST_MAP=True")
        options = [word for variable in variables for word in ("--env", variable)]
        serve = ["python", "-m", "uvicorn", "litellm.proxy.proxy_server:app", f"--port={port}", "--log-level=warning"]
        argv = ["docker", "run", "--rm", f"--name={name}", "--network=host", f"--volume={config}:/litellm.yaml:ro"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen([*argv, *options, image, *serve], stdout=quiet, stderr=quiet)
        try:
            wait_until_live(f"http://127.0.0.1:{port}/health/liveliness", process)
            yield Target("LiteLLM", f"http://127.0.0.1:{port}", key, models)
        finally:
            subprocess.run(["docker", "stop", "--time", "5", name], check=False, capture_output=True)
            process.wait(timeout=60)


if __name__ == "__main__":
    sys.exit(main())
