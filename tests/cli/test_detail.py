"""One deployment in full, as text."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_cli.client.records import Deployment
from bouchet_cli.view.deployment import detail_lines, spent, time_lines
from bouchet_core.deployments import Phase

from .conftest import Bouchet, advance

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TIMES = {"queue": 30.0, "image": 0.0, "boot": 60.0, "load": 8.0, "compile": 2.0, "ready": 100.0}


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_bar_is_as_long_as_its_steps_share(width: int) -> None:
    head, *steps = [line.plain for line in time_lines(TIMES, width)]
    assert "1m40s from submission to the first answer" in head
    bars = {line.split()[0]: line.count("█") for line in steps}
    assert list(bars) == ["queue", "image", "boot", "load", "compile"]
    assert bars["image"] == 0 and bars["compile"] == 1
    assert bars["boot"] == pytest.approx(2 * bars["queue"], abs=1)
    assert all(len(line) <= width for line in steps)
    assert bars["boot"] == max(bars.values())


def test_no_times_no_bars() -> None:
    assert time_lines({}, 80) == []
    assert "so far" in time_lines({"queue": 3.0}, 80)[0].plain


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4s"), (9.9, "9.9s"), (59.2, "59s"), (125, "2m05s"), (11_100, "3h05m")]
)
def test_seconds_in_few_characters(seconds: float, text: str) -> None:
    assert spent(seconds) == text


DETAILED = {
    "id": "abc",
    "model": "demo/scripted",
    "names": ["mine", "demo/scripted"],
    "phase": "ready",
    "created_at": NOW.isoformat(),
    "updated_at": NOW.isoformat(),
    "jobs": [
        {
            "slurm_id": 17,
            "slurm_state": "RUNNING",
            "node": "node2",
            "window": 65536,
            "image": "cpu.sif",
            "image_sha256": "ab" * 32,
            "vllm_version": "0.32.0",
            "torch_version": "2.13.0",
            "gpus": ["NVIDIA H200", "NVIDIA H200"],
            "driver": "580.95.05",
            "since": {"starting": (NOW - timedelta(minutes=10)).isoformat()},
            "times": TIMES,
            "placement": {
                "partition": "gpu_devel", "gpus": 1, "gpu_type": "h200", "nodes": 1, "cpus": 6, "memory_gib": 240,
                "walltime_s": 3600, "why": "gpu_devel is the first that takes 1 GPU",
            },
        }
    ],
}  # fmt: skip


def test_everything_about_one_deployment() -> None:
    lines = [line.plain for line in detail_lines(Deployment.from_json(DETAILED), 80, NOW)]
    assert lines[0] == "mine  ready" and max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for words in (
        "17 on node2, RUNNING",
        "the first that takes 1 GPU",
        "cpu.sif (sha256 abababababab)",
        "torch 2.13.0",
        "2 x NVIDIA H200 on a node, driver 580.95.05",
        "in 50m",
        "64k",
    ):
        assert words in text


def test_status_of_one_by_name(bouchet: Bouchet) -> None:
    made = json.loads(bouchet("launch", "Qwen/Qwen3-32B", "--no-wait", "--json").out)
    advance(bouchet.store, made["id"], Phase.SUBMITTING, Phase.QUEUED)
    done = bouchet("status", "bouchet-qwen3-32b")
    assert done.status == 0 and "waits for GPUs" in done.out and made["id"] in done.out
    assert json.loads(bouchet("status", made["id"], "--json").out)["id"] == made["id"]
    assert bouchet("status", "nosuch").status == 3
