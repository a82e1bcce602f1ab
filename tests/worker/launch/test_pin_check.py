"""Relaunches: they run what the earlier deployment ran, or are refused before they are submitted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bouchet_core.config.catalog import Catalog
from bouchet_core.deployments import Deployment, Ending, Phase
from bouchet_core.provenance import LaunchPins, Weights
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.checks import PinnedFiles, changed_arguments, find_changes
from bouchet_worker.launch.plan import preview
from bouchet_worker.launch.submit import submit

from tests.fakes.slurm_gateway import FakeSlurm, job_ids
from tests.worker.scenario import ROOT, Clock, MakeWorkerContext, requested

WEIGHTS = Weights(digest="ef" * 32, how="manifest", files=9, bytes=10)
PINS = LaunchPins(
    deployment="earlier",
    image="cpu-0.32.0",
    image_sha256="ab" * 32,
    vllm="0.32.0",
    model_revision="c0ffee",
    weights=WEIGHTS,
)
IMAGE = {"exists": True, "recorded": "ab" * 32, "computed": None}
MODEL = {"revision": "c0ffee", "weights": {"how": "manifest", "digest": "ef" * 32}}


def pinned(clock: Clock, catalog: Catalog, **pins: object) -> Deployment:
    entry = catalog.entries["demo/scripted"].model_dump(mode="json")
    made = requested("aa", clock(), partition="gpu_h200")
    return made.model_copy(update={"entry": entry, "pins": PINS.model_copy(update=pins)})


def report(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, image: Any = IMAGE, model: Any = MODEL) -> None:
    """Set what probe_login_node.py prints."""

    def python3(arguments: list[str]) -> tuple[int, str, str]:
        if not arguments[0].endswith("probe_login_node.py"):
            return 2, "", "no such program"
        return 0, json.dumps({"images": {"i": image}, "weights": {"demo/scripted": model}}), ""

    monkeypatch.setattr(slurm, "python3", python3)


@pytest.mark.parametrize(
    ("image", "model", "parts"),
    [
        (IMAGE, MODEL, []),
        ({**IMAGE, "recorded": None}, {**MODEL, "weights": None}, []),
        ({"exists": False}, MODEL, ["no longer exists"]),
        ({**IMAGE, "computed": "cd" * 32}, MODEL, ["was replaced: its sha256 is cdcdcdcdcdcd"]),
        (
            {**IMAGE, "recorded": "cd" * 32},
            None,
            ["was replaced", "the model demo/scripted is no longer on the cluster"],
        ),
        (IMAGE, {**MODEL, "revision": "badcafe"}, ["is at commit badcafe, the deployment ran c0ffee"]),
        (IMAGE, {**MODEL, "weights": {"how": "manifest", "digest": "00"}}, ["files of the model demo/scripted have"]),
        (IMAGE, {**MODEL, "weights": {"how": "headers", "digest": "00"}}, []),
    ],
)
def test_find_changes_names_what_differs(image: dict[str, Any], model: dict[str, Any] | None, parts: list[str]) -> None:
    found = find_changes(PinnedFiles(image, model), "demo/scripted", PINS)
    assert len(found) == len(parts) and all(part in text for part, text in zip(parts, found, strict=True))


def test_relaunch_of_unchanged_files_is_submitted_with_pins(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(slurm, monkeypatch)
    context.store.create(pinned(clock, catalog))
    assert submit(context, "aa").startswith("job ")
    spec = json.loads(slurm.files[f"{ROOT}/jobs/bouchet-aa-1/spec.json"])
    assert (spec["image_sha256"], spec["model_revision"]) == ("ab" * 32, "c0ffee")
    job = context.store.get("aa").job
    assert job is not None and job.submission == tuple(slurm.calls[-1])
    staged = slurm.files[f"{ROOT}/jobs/bouchet-aa-1/vllm.args"].decode().splitlines()
    assert list(job.arguments) == staged


def test_relaunch_of_changed_files_fails_before_sbatch(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(slurm, monkeypatch, image={**IMAGE, "recorded": "cd" * 32})
    context.store.create(pinned(clock, catalog))
    assert submit(context, "aa") == "failed" and job_ids(slurm) == []
    record = context.store.get("aa")
    assert (record.phase, record.ending) == (Phase.ENDED, Ending.FAILED)
    assert "deployment earlier cannot be reproduced: the image cpu-0.32.0.sif was replaced" in record.reason


def test_relaunch_works_without_catalog_entry_and_site_image(
    make_context: MakeWorkerContext, slurm: FakeSlurm, clock: Clock, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(slurm, monkeypatch)
    context = make_context(catalog=Catalog({}))
    record = pinned(clock, catalog, image="cpu-0.31.0", vllm="0.31.0")
    shown = preview(context, record)
    assert shown["image"] == "cpu-0.31.0.sif" and "hermes" in shown["files"]["vllm.args"]


def test_changed_arguments_names_removed_and_added_options() -> None:
    then = ("--served-model-name", "a", "b", "--max-model-len", "9", "--old")
    assert changed_arguments((), then) == changed_arguments(then, ("--served-model-name", "c", *then[3:])) == ""
    assert changed_arguments(then, ("--max-model-len", "8")).endswith(
        "without --max-model-len 9, --old and with --max-model-len 8"
    )
