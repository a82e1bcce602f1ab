"""Schemathesis over what schemas/proxy-openapi.json says of the proxy: random requests, each answer checked."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from setup.python.environments import FUZZER

ROOT = Path(__file__).parents[2]
DESCRIPTION = ROOT / "schemas" / "proxy-openapi.json"
# use_after_free: nothing here is deleted. negative_data_rejection: null counts as absent, and what a field of sampling
# may be is left to vLLM
NOT_CHECKED = "use_after_free,negative_data_rejection"
# the first request of Gemini's dialect loads LiteLLM
REQUEST_TIMEOUT_S = 120
CONFIG = """
[auth.openapi.x-api-key]
api_key = "{key}"

[auth.openapi.x-goog-api-key]
api_key = "{key}"

[auth.openapi.bearer]
bearer = "{key}"

# 400 also refuses what no schema can say: prompts above the window, embeddings of a model that has none
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 404, 429]
"""


def fuzz(url: str, key: str, seconds: int, seed: int = 1) -> tuple[bool, str]:
    """Return whether the proxy is as it is described, and what schemathesis printed. The key is in no argument."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "schemathesis.toml"
        config.touch(0o600)
        config.write_text(CONFIG.format(key=key))
        options = {
            "--url": url,
            "--checks": "all",
            "--exclude-checks": NOT_CHECKED,
            "--max-time": str(seconds),
            "--request-timeout": str(REQUEST_TIMEOUT_S),
            # two run into a fault of Python 3.11: SystemError in ast.parse
            "--workers": "1",
            "--seed": str(seed),
        }
        argv = [str(ROOT / FUZZER / "bin" / "st"), "--no-color", "--config-file", str(config), "run", str(DESCRIPTION)]
        flat = [part for pair in options.items() for part in pair]
        done = subprocess.run(
            [*argv, *flat, "--continue-on-failure", "--no-shrink"],
            capture_output=True,
            text=True,
            timeout=seconds + 10 * REQUEST_TIMEOUT_S,
        )
    return done.returncode == 0, done.stdout + done.stderr
