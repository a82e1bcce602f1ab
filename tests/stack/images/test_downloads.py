"""Downloads as real jobs: the image's own huggingface_hub, a hub on the login node, the cluster's shared disk.

The models are made up and small; one of them has the name of a catalog entry, so that `bouchet models` shows it.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack.harness import Stack
from tests.waiting import wait_for

HUB = Path(__file__).parents[2] / "fakes" / "hub_server.py"
PORT, LIVES_S = 8600, 900
# a model that fits the demo's nodes and is not on them
FITS = "Qwen/Qwen2.5-1.5B-Instruct"
MODEL, MEGABYTES = "Qwen/Qwen3-32B", 24
# bytes a second: the rest of a model takes half a minute while a test cancels it
SLOW = 500_000
GATED = "hub-test/gated"
MODELS = "/software/models"
QUOTA = "/home/researcher/quota-left"


class Hub:
    """The hub inside the demo cluster; it ends by itself after LIVES_S."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def start(self) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(HUB, "hub_server.py")
        container = self._stack.container("demo-login")
        container.put_archive("/var/tmp", archive.getvalue())
        words = f"{PORT} {LIVES_S} {MODEL}={MEGABYTES}000000 {GATED}=1000000"
        # the demo's own hub is at this port; it comes back when this one has ended
        self._stack.on("demo-login", ["pkill", "-f", "/usr/libexec/demo/hub.py"])
        command = f"echo $$ > /var/tmp/hub.pid; exec python3 /var/tmp/hub_server.py {words}"
        container.exec_run(["sh", "-c", command], detach=True, user="researcher")
        wait_for(lambda: self._stack.on("demo-login", ["curl", "-sf", self._url()]).status == 0, 60)
        self.change(gated={GATED: True})

    def stop(self) -> None:
        self._stack.on("demo-login", ["sh", "-c", "kill $(cat /var/tmp/hub.pid)"], user="researcher")

    def change(self, **wanted: Any) -> None:
        """Change the hub's behaviour."""
        words = ["curl", "-sf", "--data-binary", json.dumps(wanted), self._url()]
        assert self._stack.on("demo-login", words).status == 0

    def asked(self) -> list[list[str]]:
        """Return the requests so far: method, path, range."""
        state = self._stack.on("demo-login", ["curl", "-sf", self._url()]).stdout
        return list(json.loads(state)["requests"])

    def _url(self) -> str:
        return f"http://127.0.0.1:{PORT}/_state"


def remove_models(stack: Stack) -> None:
    """Remove the models that these tests downloaded."""
    command = f"rm -rf {MODELS}/Qwen {MODELS}/hub-test {QUOTA}"
    assert stack.on("demo-login", ["sh", "-c", command], user="researcher").status == 0


@pytest.fixture(scope="module")
def hub(stack: Stack) -> Iterator[Hub]:
    remove_models(stack)
    hub = Hub(stack)
    hub.start()
    try:
        yield hub
    finally:
        for download in downloads(stack):
            if download["state"] in ("queued", "running"):
                stack.bouchet("download", download["model"], "--cancel")
        wait_for(lambda: "bouchet-download" not in stack.slurm("squeue", "-h", "-o", "%j"), 120)
        hub.stop()
        remove_models(stack)


def downloads(stack: Stack) -> list[dict[str, Any]]:
    with stack.api() as api:
        return list(api.get("/v1/downloads").raise_for_status().json()["downloads"])


def ended(stack: Stack, identity: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = next(d for d in downloads(stack) if d["id"] == identity)
        return found if found["state"] in ("done", "failed", "cancelled") else None

    return dict(wait_for(look, 120, lambda: json.dumps(downloads(stack)[:1], indent=1)))


def running(stack: Stack, model: str, megabytes: float) -> dict[str, Any]:
    """Wait until so many megabytes have been downloaded; return the download."""

    def look() -> dict[str, Any] | None:
        found = downloads(stack)[0]
        assert found["model"] == model and found["state"] in ("queued", "running"), found
        return found if found["bytes"] > megabytes * 1e6 else None

    return dict(wait_for(look, 90, lambda: json.dumps(downloads(stack)[:1], indent=1)))


def row_of(stack: Stack, model: str) -> str:
    """Return the model's row of `bouchet models`, with one space between columns."""
    done = stack.bouchet("models", COLUMNS="160")
    assert done.status == 0, done.output
    return re.sub(" +", " ", next(line for line in done.stdout.splitlines() if line.startswith(model)))


def becomes(stack: Stack, model: str, pattern: str) -> None:
    """Wait until the model's row matches: listing the disk takes a moment after a download."""
    wait_for(lambda: re.search(pattern, row_of(stack, model)), 90, lambda: row_of(stack, model))


def test_launch_missing_model_is_refused_before_submission(stack: Stack, hub: Hub) -> None:
    becomes(stack, FITS, " missing ")
    becomes(stack, "HuggingFaceTB/SmolLM2-135M-Instruct", " ready ")
    before = stack.slurm("squeue", "-h", "-o", "%i")
    done = stack.bouchet("launch", FITS, "--no-wait", "--json")
    record = stack.wait_for_phase(json.loads(done.stdout)["id"], "ended", timeout_s=90)
    assert f"bouchet download {FITS}" in record["reason"]
    assert stack.slurm("squeue", "-h", "-o", "%i") == before


def test_download_cancelled_is_partial_and_resumes(stack: Stack, hub: Hub) -> None:
    hub.change(behavior={"rate": SLOW})
    asked = json.loads(stack.bouchet("download", MODEL, "--no-wait", "--json").stdout)
    seen = running(stack, MODEL, 3)
    assert seen["total_bytes"] > MEGABYTES * 1e6 > seen["bytes"] and seen["rate"] > 0 and seen["eta_s"]
    again = json.loads(stack.bouchet("download", MODEL, "--no-wait", "--json").stdout)
    assert again["id"] == asked["id"], "one download a model"
    job = stack.slurm("squeue", "-h", "-j", str(seen["slurm_id"]), "-o", "%P %j %b")
    assert re.fullmatch(r"day bouchet-download-Qwen--Qwen3-32B-\w{12} N/A\s*", job), "no GPU is held"
    assert stack.bouchet("download", MODEL, "--cancel").status == 0
    over = ended(stack, asked["id"])
    assert over["state"] == "cancelled" and "kept" in over["reason"]
    becomes(stack, MODEL, r" partial [1-9]\d? % ")
    kept, before = over["bytes"], len(hub.asked())
    hub.change(behavior={"rate": 0})
    done = stack.bouchet("download", MODEL, timeout_s=120)
    assert done.status == 0 and "is on the cluster" in done.stdout, done.output
    begun = [int(words[2].removeprefix("bytes=").rstrip("-")) for words in hub.asked()[before:] if words[2]]
    assert sum(begun) >= kept * 0.9
    becomes(stack, MODEL, " ready ")
    revision = stack.on("demo-login", ["cat", f"{MODELS}/{MODEL}/REVISION"]).stdout.strip()
    manifest = stack.on("demo-login", ["cat", f"{MODELS}/{MODEL}/.bouchet/manifest.json"]).stdout
    assert json.loads(manifest)["revision"] == revision == downloads(stack)[0]["commit"]


def test_download_killed_job_names_next_step(stack: Stack, hub: Hub) -> None:
    stack.on("demo-login", ["rm", "-rf", f"{MODELS}/{MODEL}"], user="researcher")
    hub.change(behavior={"rate": SLOW, "cut_after": 2_000_000, "cuts": 1})
    asked = json.loads(stack.bouchet("download", MODEL, "--no-wait", "--json").stdout)
    seen = running(stack, MODEL, 4)
    stack.slurm("scancel", "--signal=KILL", "--full", str(seen["slurm_id"]))
    over = ended(stack, asked["id"])
    assert over["state"] == "failed" and f"run `bouchet download {MODEL}`" in over["reason"], over
    hub.change(behavior={"rate": 0, "cuts": 0})
    assert stack.bouchet("download", MODEL, timeout_s=120).status == 0


def test_download_gated_model_names_token_file(stack: Stack, hub: Hub) -> None:
    done = stack.bouchet("download", GATED, timeout_s=120)
    assert done.status == 1 and "HF_TOKEN" in done.stderr, done.output
    assert stack.on("demo-login", ["test", "-e", f"{MODELS}/{GATED}"]).status != 0


def test_download_over_quota_is_refused_first(stack: Stack, hub: Hub) -> None:
    hub.change(gated={GATED: False})
    stack.on("demo-login", ["sh", "-c", f"echo 4096 > {QUOTA}"], user="researcher")
    done = stack.bouchet("download", GATED, timeout_s=120)
    assert done.status == 1 and "your quota has 4.0 KiB left" in done.stderr, done.output


def test_download_invalid_model_is_refused(stack: Stack, hub: Hub) -> None:
    done = stack.bouchet("download", "qwen3-23b")
    assert done.status == 3 and "did you mean" in done.stderr
    done = stack.bouchet("download", "hub-test/no-such", timeout_s=120)
    assert done.status == 1 and "there is no model hub-test/no-such" in done.stderr, done.output
