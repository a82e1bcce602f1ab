"""`status NAME --repro` and `launch --like`: what ran, so that a colleague can run it; and again by ourselves."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_cli.view.repro import by_hand
from bouchet_core.deployments import Deployment, Phase
from bouchet_core.provenance import SmokeCheck, SmokeTest, Software, Weights

from .conftest import Bouchet, advance, end

QWEN = "Qwen/Qwen3-32B"
SCRATCH = "/tmp/bouchet-7-Ab"
CONTAINER = (
    *("apptainer", "exec", "--nv", "--bind", f"{SCRATCH}/tmp:/tmp", "--bind", f"{SCRATCH}:/bouchet/job"),
    *("/images/cuda13-0.32.0.sif", "/bin/sh", "-c", 'exec "$@"', "vllm-serve", "vllm", "serve", "/m", "--x", "it's"),
    *("--port", "8123"),
)
FACTS = {
    "image": "cuda13-0.32.0.sif",
    "image_sha256": "ab" * 32,
    "model_revision": "c0ffee",
    "vllm_version": "0.32.0",
    "torch_version": "2.13.0",
    "driver": "580.95.05",
    "gpus": ("NVIDIA H200",),
    "nodes": ("node12",),
    "submission": ("sbatch", "--parsable", "--output=~/logs/%j.log", "x.sbatch"),
    "software": Software(container=CONTAINER, environment={"A": "b c"}, cuda="13.0", quant="fp8", recipe_sha256="cd"),
    "weights": Weights(digest="ef" * 32, how="manifest", files=9, bytes=61_000_000_000, folder="/m"),
    "smoke": SmokeTest(chat=SmokeCheck(result="ok", message="2 tokens")),
}


def ran(bouchet: Bouchet, *arguments: str) -> str:
    """The id of a deployment that has started vLLM."""
    made = json.loads(bouchet("launch", *(arguments or (QWEN,)), "--no-wait", "--json").out)
    advance(bouchet.store, made["id"], Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING, Phase.READY)

    def filled(record: Deployment) -> Deployment:
        assert record.job is not None
        return record.with_job(record.job.model_copy(update=FACTS), datetime.now(UTC))

    return bouchet.store.update(made["id"], filled).id


def test_repro_holds_all_that_ran_and_no_key(bouchet: Bouchet) -> None:
    identity = ran(bouchet)
    found = json.loads(bouchet("status", identity, "--repro", "--json").out)
    assert (found["model"], found["revision"], found["image"]["sha256"]) == (QWEN, "c0ffee", "ab" * 32)
    assert found["software"] == {
        "vllm": "0.32.0",
        "torch": "2.13.0",
        "cuda": "13.0",
        "python": None,
        "driver": "580.95.05",
    }
    assert found["weights"]["digest"] == "ef" * 32 and found["quant"] == "fp8"
    assert tuple(found["container"]) == CONTAINER and found["slurm"]["submission"][0] == "sbatch"
    assert found["again"] == ["bouchet", "launch", "--like", identity]
    text = bouchet("status", identity, "--repro").out
    for words in ("commit c0ffee", "ab" * 32, "ef" * 32, "CUDA 13.0", "driver 580.95.05", f"launch --like {identity}"):
        assert words in text
    assert "chat ok" in text and "sbatch" in text and "VLLM_API_KEY=choose-one" in text


@pytest.mark.parametrize(("days", "words"), [(-1, "are gone from the cluster since"), (9, "stay on the cluster until")])
def test_an_ended_one_says_how_long_its_files_are_there(bouchet: Bouchet, days: int, words: str) -> None:
    identity, until = ran(bouchet), datetime.now(UTC) + timedelta(days=days)
    assert "on the cluster" not in bouchet("status", identity, "--repro").out

    def dated(record: Deployment) -> Deployment:
        assert record.job is not None
        return record.with_job(record.job.model_copy(update={"kept_until": until}), until)

    bouchet.store.update(identity, dated)
    assert f"{words} {until:%Y-%m-%d}" in bouchet("status", identity, "--repro").out


def test_what_has_not_started_or_has_no_name_is_said(bouchet: Bouchet) -> None:
    made = json.loads(bouchet("launch", QWEN, "--no-wait", "--json").out)
    assert bouchet("status", made["id"], "--repro").status == 3
    done = bouchet("status", "--repro")
    assert done.status == 2 and "name or the id" in done.err


def test_the_lines_for_hands_are_a_shells() -> None:
    text = "\n".join(by_hand(CONTAINER, {"A": "b c", "CUDA_VISIBLE_DEVICES": "3"}))
    assert "CUDA_VISIBLE_DEVICES=3" not in text
    script = text.replace("apptainer", "printf '%s\\n'", 1).replace("$(mktemp -d)", "/tmp/new", 1)
    script = script.replace("mkdir -p", "true")
    words = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words == [word.replace(SCRATCH, "/tmp/new") for word in CONTAINER[1:]]
    assert "export APPTAINERENV_A='b c'" in text and SCRATCH not in text
    assert "http://127.0.0.1:8123/v1/models -H 'Authorization: Bearer choose-one'" in text


def test_the_same_again_after_it_has_ended(bouchet: Bouchet) -> None:
    identity = ran(bouchet, QWEN, "--name", "mine", "--quant", "fp8")
    end(bouchet.store, identity)
    done = bouchet("launch", "--like", identity, "--time", "02:00:00", "--no-wait", "--json")
    assert done.status == 0, done.err
    made = bouchet.store.get(json.loads(done.out)["id"])
    assert made.names == ("mine", QWEN) and made.pins is not None
    assert (made.pins.image, made.pins.image_sha256, made.pins.model_revision) == (
        "cuda13-0.32.0",
        "ab" * 32,
        "c0ffee",
    )
    asked = made.request
    assert (asked.like, asked.quant, asked.gpus, asked.partition, asked.time) == (
        identity,
        "fp8",
        2,
        "gpu_h200",
        "02:00:00",
    )


def test_what_would_not_be_the_same_is_refused(bouchet: Bouchet) -> None:
    identity = ran(bouchet)
    for words in (("--gpus", "4"), ("--max-len", "4096"), ("bouchet-qwen3-coder-next",)):
        done = bouchet("launch", *words, "--like", identity, "--no-wait")
        assert done.status == 1 and "would not be the same" in done.err
    taken = bouchet("launch", "--like", identity, "--no-wait")
    assert taken.status == 1 and "already served" in taken.err
    unknown = bouchet("launch", "--like", "nosuch", "--no-wait")
    assert unknown.status == 3 and "stands on its record alone" in unknown.err
    made = json.loads(bouchet("launch", QWEN, "--name", "early", "--no-wait", "--json").out)
    never = bouchet("launch", "--like", made["id"], "--no-wait")
    assert never.status == 1 and "never came so far" in never.err
