"""The list of pins and images, and the removal of an image."""

from __future__ import annotations

import pytest
from bouchet_core.errors import ImageInUseError, ImageMissingError
from bouchet_core.images import find_pin
from bouchet_worker.batch.image_list import list_images, remove_image
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import submit

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import requested

PIN = "cpu-0.32.0"
ROW: dict[str, object] = {"bytes": 5, "made_at": 1763800000, "sha256": "ab" * 32, "vllm": "0.32.0+cpu"}


def test_list_images_joins_pins_and_images(context: WorkerContext, slurm: FakeSlurm) -> None:
    recipe = find_pin(context.pins_dir, PIN).recipe_sha256((context.recipe_dir / "vllm.def").read_bytes())
    slurm.images = {PIN: {**ROW, "recipe_sha256": recipe}, "cuda13-0.32.0": {**ROW, "recipe_sha256": "old"}, "own": ROW}
    rows = {row.pin: row for row in list_images(context).images}
    assert {name: row.state for name, row in rows.items()} == {
        PIN: "ready",
        "cpu-arm64-0.32.0": "missing",
        "cuda13-0.32.0": "outdated",
        "cuda13-0.33.0": "missing",
        "cuda128-0.19.1": "missing",
        "own": "ready",
    }
    assert rows[PIN].is_default and rows[PIN].vllm == "0.32.0+cpu" and not rows["own"].known
    assert rows["cuda128-0.19.1"].min_driver == "525"


def test_list_images_without_tunnel_lists_the_pins(context: WorkerContext, slurm: FakeSlurm) -> None:
    slurm.fault = lambda method, what: "tunnel_down"
    found = list_images(context)
    assert {row.state for row in found.images} == {"unknown"} and "tunnel_down" in found.problem


def test_remove_image_in_use_needs_force(context: WorkerContext, slurm: FakeSlurm) -> None:
    slurm.images = {PIN: dict(ROW)}
    context.store.create(requested("d1", context.now()))
    submit(context, "d1")
    (row,) = [row for row in list_images(context).images if row.pin == PIN]
    assert row.deployments == (context.store.get("d1").alias,)
    with pytest.raises(ImageInUseError, match="--force"):
        remove_image(context, PIN, force=False)
    assert slurm.images
    assert remove_image(context, PIN, force=True).bytes == 5 and not slurm.images


def test_remove_missing_image_raises(context: WorkerContext, slurm: FakeSlurm) -> None:
    slurm.images = {}
    with pytest.raises(ImageMissingError):
        remove_image(context, PIN, force=True)
