"""What ran is on the record, was tried as clients use it, and runs again to the letter; real vLLM, real Slurm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.stack.conftest import SCRIPTED, SMALL
from tests.stack.harness import Stack
from tests.waiting import wait_for

AGAIN = "bouchet-again"


def job_of(record: dict[str, Any]) -> dict[str, Any]:
    return dict(record["jobs"][-1])


@pytest.fixture(scope="module")
def again(stack: Stack, scripted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Relaunch the scripted deployment by its id."""
    words = ["launch", "--like", scripted["id"], "--name", AGAIN, "--time", "00:30:00", "--no-wait", "--json"]
    done = stack.bouchet(*words)
    assert done.status == 0, done.output
    made = json.loads(done.stdout)
    yield made
    stack.bouchet("cancel", made["id"])
    stack.wait_for_phase(made["id"], "ended", timeout_s=90)


def smoke_test_of(stack: Stack, name: str) -> Any:
    """Return the smoke test of a deployment, None while it runs."""
    return job_of(stack.deployment(name))["smoke"]


def test_smoke_tests_of_demo_models_pass(stack: Stack, scripted: dict[str, Any]) -> None:
    for name, tools in ((SMALL, "not_tried"), (SCRIPTED, "ok")):
        wait_for(partial(smoke_test_of, stack, name), 60)
        record = stack.deployment(name)
        smoke = job_of(record)["smoke"]
        assert {check: smoke[check]["result"] for check in ("chat", "stream", "count", "window")} == dict.fromkeys(
            ("chat", "stream", "count", "window"), "ok"
        ), smoke
        assert smoke["tools"]["result"] == tools, smoke
        assert record["reason"] == "", record["reason"]


def test_repro_output_runs_by_hand(stack: Stack, scripted: dict[str, Any]) -> None:
    found = json.loads(stack.bouchet("status", SCRIPTED, "--repro", "--json").stdout)
    sif = stack.on("demo-login", ["cat", "/software/images/cpu-0.32.0.sif.sha256"]).stdout.split()[0]
    assert found["image"]["sha256"] == sif and found["software"]["vllm"].startswith("0.32.0")
    assert found["weights"]["how"] == "headers" and found["weights"]["files"] > 3
    assert found["container"][:3] == ["apptainer", "exec", "--nv"] and found["environment"]["HF_HUB_OFFLINE"] == "1"
    assert found["slurm"]["submission"][0] == "sbatch" and found["quant"] == "none"
    job = job_of(stack.deployment(SCRIPTED))
    key = stack.on("demo-login", ["cat", f"/home/researcher/bouchet-llm/jobs/{job['name']}/key"]).stdout.strip()
    assert len(key) == 64
    everything = json.dumps(stack.deployment(SCRIPTED)) + stack.bouchet("status", SCRIPTED, "--repro").output
    assert key not in everything


def test_relaunch_matches_earlier_deployment(stack: Stack, scripted: dict[str, Any], again: dict[str, Any]) -> None:
    record = stack.wait_for_phase(AGAIN, "ready")
    first, second = job_of(stack.deployment(scripted["id"])), job_of(record)
    for fact in ("image_sha256", "model_revision", "vllm_version", "torch_version", "window"):
        assert first[fact] == second[fact], fact
    assert first["weights"]["digest"] == second["weights"]["digest"]
    named = second["arguments"].index("--max-model-len")
    assert second["arguments"][named:] == first["arguments"][first["arguments"].index("--max-model-len") :]
    assert second["placement"]["partition"] == first["placement"]["partition"]
    assert second["placement"]["walltime_s"] == 1800


def test_relaunch_missing_files_are_refused_before_submission(stack: Stack, scripted: dict[str, Any]) -> None:
    refused = stack.bouchet("launch", "--like", scripted["id"], "--gpus", "2", "--no-wait")
    assert refused.status == 1 and "without --like" in refused.stderr
    shown = stack.bouchet("launch", "--like", scripted["id"], "--name", "other", "--dry-run", "--json")
    assert shown.status == 0, shown.output
    spec = json.loads(json.loads(shown.stdout)["files"]["spec.json"])
    assert spec["image_sha256"] == job_of(stack.deployment(scripted["id"]))["image_sha256"]
