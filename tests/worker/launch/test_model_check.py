"""The list of models on the cluster, and the check before a launch."""

from __future__ import annotations

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.errors import LaunchRefusedError
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.checks import FRESH, check_model_present, list_models
from bouchet_worker.launch.submit import submit

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import Clock, requested

MODEL = "demo/scripted"
READY = {"state": "ready", "bytes": 5, "total_bytes": 5, "revision": "c" * 40, "last_used": 1763800000}
PARTIAL = {**READY, "state": "partial", "total_bytes": 12}


def test_list_models_stores_the_listing(context: WorkerContext, slurm: FakeSlurm) -> None:
    slurm.on_disk = {MODEL: READY}
    assert list_models(context) == "1 models"
    listing = context.store.downloads.disk()
    assert listing is not None
    assert listing.of(MODEL).percent == 100 and listing.of("a/b").state == "missing"


def test_failed_listing_keeps_the_stored_one(context: WorkerContext, slurm: FakeSlurm) -> None:
    slurm.on_disk = {MODEL: READY}
    list_models(context)
    slurm.on_disk = None
    assert list_models(context) == "could not list the models"
    assert context.store.downloads.disk() is not None


def test_listing_of_another_form_keeps_the_stored_one(context: WorkerContext, slurm: FakeSlurm) -> None:
    slurm.on_disk = {MODEL: {"state": "ready"}}
    assert list_models(context) == "could not list the models"
    assert context.store.downloads.disk() is None


@pytest.mark.parametrize(("on_disk", "part"), [({}, "not on the cluster"), ({MODEL: PARTIAL}, "41 %")])
def test_launch_of_absent_model_fails_before_sbatch(
    context: WorkerContext, slurm: FakeSlurm, on_disk: dict[str, object], part: str
) -> None:
    slurm.on_disk = on_disk
    context.store.create(requested("d1", context.now()))
    submit(context, "d1")
    ended = context.store.get("d1")
    assert ended.phase is Phase.ENDED and part in ended.reason and f"bouchet download {MODEL}" in ended.reason
    assert "sbatch" not in slurm.programs()


def test_launch_without_its_image_fails_before_sbatch(context: WorkerContext, slurm: FakeSlurm) -> None:
    slurm.on_disk = {}
    slurm.missing_images = {context.site.default_image}
    context.store.create(requested("d1", context.now()))
    submit(context, "d1")
    ended = context.store.get("d1")
    # the image comes before the model, whose download runs in it
    assert ended.phase is Phase.ENDED and f"`bouchet image build {context.site.default_image}` first" in ended.reason
    assert "sbatch" not in slurm.programs()


def test_old_listing_is_renewed_before_a_launch(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    slurm.on_disk = {MODEL: READY}
    list_models(context)
    slurm.on_disk = {}
    check_model_present(context, MODEL)
    clock.advance(FRESH.total_seconds() + 1)
    with pytest.raises(LaunchRefusedError):
        check_model_present(context, MODEL)


def test_failed_listing_blocks_no_launch(context: WorkerContext, slurm: FakeSlurm) -> None:
    slurm.on_disk = None
    check_model_present(context, "a/b")
