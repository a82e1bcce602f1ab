"""`bouchet status NAME --repro` and `bouchet launch --like`."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bouchet_cli.view.repro import container_lines
from bouchet_core.provenance import SmokeCheck, SmokeTest, Software, Weights

from tests.cli.harness import QWEN, Bouchet, change_job, end, one_line_error
from tests.cli.samples import CONTAINER, SCRATCH

PROVENANCE = {
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


def launch_started(bouchet: Bouchet, *arguments: str) -> str:
    """Return the id of a deployment that has started vLLM."""
    identity = bouchet.launch_ready(*(arguments or (QWEN,)))
    change_job(bouchet.store, identity, **PROVENANCE)
    return identity


def test_repro_json_has_everything_that_ran(bouchet: Bouchet) -> None:
    identity = launch_started(bouchet)
    found = json.loads(bouchet("status", identity, "--repro", "--json").out)
    assert (found["model"], found["revision"], found["image"]["sha256"]) == (QWEN, "c0ffee", "ab" * 32)
    versions = {"vllm": "0.32.0", "torch": "2.13.0", "cuda": "13.0", "python": None, "driver": "580.95.05"}
    assert found["software"] == versions
    assert found["weights"]["digest"] == "ef" * 32 and found["quant"] == "fp8"
    assert tuple(found["container"]) == CONTAINER and found["slurm"]["submission"][0] == "sbatch"
    assert found["again"] == ["bouchet", "launch", "--like", identity]


def test_repro_text_has_commands_and_no_key(bouchet: Bouchet) -> None:
    identity = launch_started(bouchet)
    text = bouchet("status", identity, "--repro").out
    for part in ("c0ffee", "ab" * 32, "ef" * 32, "CUDA 13.0", "580.95.05", f"launch --like {identity}", "chat ok",
                 "sbatch", "VLLM_API_KEY=choose-one"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("days", [-1, 9])
def test_repro_shows_how_long_the_files_are_kept(bouchet: Bouchet, days: int) -> None:
    identity, until = launch_started(bouchet), datetime.now(UTC) + timedelta(days=days)
    assert f"{until:%Y-%m-%d}" not in bouchet("status", identity, "--repro").out
    change_job(bouchet.store, identity, kept_until=until)
    assert f"{until:%Y-%m-%d}" in bouchet("status", identity, "--repro").out


def test_repro_needs_a_name_and_a_start(bouchet: Bouchet) -> None:
    identity = bouchet.launch()
    assert one_line_error(bouchet("status", identity, "--repro"), 3)
    assert one_line_error(bouchet("status", "--repro"), 2)


def test_container_lines_start_the_same_container() -> None:
    text = "\n".join(container_lines(CONTAINER, {"A": "b c", "CUDA_VISIBLE_DEVICES": "3"}))
    assert "CUDA_VISIBLE_DEVICES=3" not in text
    script = text.replace("apptainer", "printf '%s\\n'", 1).replace("$(mktemp -d)", "/tmp/new", 1)
    script = script.replace("mkdir -p", "true")
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [argument.replace(SCRATCH, "/tmp/new") for argument in CONTAINER[1:]]
    assert "export APPTAINERENV_A='b c'" in text and SCRATCH not in text
    assert "http://127.0.0.1:8123/v1/models -H 'Authorization: Bearer choose-one'" in text


def test_repro_of_hostile_facts_shows_no_control_characters_and_no_line_of_theirs(bouchet: Bouchet) -> None:
    identity = launch_started(bouchet)
    change_job(bouchet.store, identity, torch_version="2\x1b]0;x\x07\nevil", gpus=("H\x9b2J200\nevil",))
    text = bouchet("status", identity, "--repro").out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text) and "\nevil" not in text
    assert "torch 2]0;x evil" in text


def test_container_lines_of_hostile_names_run_nothing(tmp_path: Path) -> None:
    container = (*CONTAINER[: CONTAINER.index("--port")], "--port", "1\ntouch port")
    text = "\n".join(container_lines(container, {"A=1; touch name #": "b"}))
    script = text.replace("apptainer", "true", 1)
    subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert list(tmp_path.iterdir()) == []


def test_launch_like_an_ended_deployment_pins_what_ran(bouchet: Bouchet) -> None:
    identity = launch_started(bouchet, QWEN, "--name", "mine", "--quant", "fp8")
    end(bouchet.store, identity)
    made = bouchet.store.get(bouchet.launch("--like", identity, "--time", "02:00:00"))
    assert made.names == ("mine", QWEN) and made.pins is not None
    pins = (made.pins.image, made.pins.image_sha256, made.pins.model_revision)
    assert pins == ("cuda13-0.32.0", "ab" * 32, "c0ffee")
    request = made.request
    resources = (request.like, request.quant, request.gpus, request.partition, request.time)
    assert resources == (identity, "fp8", 2, "gpu_h200", "02:00:00")


@pytest.mark.parametrize("arguments", [("--gpus", "4"), ("--max-len", "4096"), ("bouchet-qwen3-coder-next",), ()])
def test_launch_like_with_other_options_or_a_taken_name_is_refused(
    bouchet: Bouchet, arguments: tuple[str, ...]
) -> None:
    identity = launch_started(bouchet)
    assert one_line_error(bouchet("launch", *arguments, "--like", identity, "--no-wait"), 1)


def test_launch_like_an_unknown_or_never_started_deployment_is_refused(bouchet: Bouchet) -> None:
    assert one_line_error(bouchet("launch", "--like", "nosuch", "--no-wait"), 3)
    assert one_line_error(bouchet("launch", "--like", bouchet.launch(), "--no-wait"), 1)
