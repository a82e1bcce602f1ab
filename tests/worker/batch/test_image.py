"""Images in the worker: one job a pin, what lies on the cluster, what may be removed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from bouchet_core.batch_jobs import BatchJobState
from bouchet_core.errors import ImageInUseError, ImageMissingError
from bouchet_core.images import ImageJob, find_pin
from bouchet_worker.batch.image import cancel_image_job, submit_image_job
from bouchet_worker.batch.image_list import list_images, remove_image
from bouchet_worker.context import WorkerContext as AnyWorkerContext
from bouchet_worker.launch.submit import submit
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import SECRET, MakeWorkerContext, requested

ROOT = Path(__file__).parents[3]
ID, PIN = "abcdefghijkl", "cpu-0.32.0"
ROW: dict[str, object] = {"bytes": 5, "made_at": 1763800000, "sha256": "ab" * 32, "vllm": "0.32.0+cpu"}


@pytest.fixture
def context(make_context: MakeWorkerContext) -> AnyWorkerContext:
    made = make_context()
    return dataclasses.replace(made, pins_dir=ROOT / "apptainer" / "pins", recipe_dir=ROOT / "apptainer")


@pytest.fixture
def loop(context: AnyWorkerContext) -> ReconcileLoop:
    return ReconcileLoop(context, Observer(context.gateway, context.paths, SlotProbe("127.0.0.1", 1, SECRET)), lambda *_: None)


def asked(context: AnyWorkerContext, **fields: object) -> ImageJob:
    """A record as the api makes it."""
    words = {"id": ID, "pin": PIN, "created_at": context.now(), "updated_at": context.now(), **fields}
    return context.store.images.create(ImageJob.model_validate(words))


def test_a_build_is_a_job_without_gpus_that_has_its_pin_along(context: AnyWorkerContext, slurm: FakeSlurm) -> None:
    assert submit_image_job(context, asked(context, source="~/staged").id) == "job 101"
    job = slurm.jobs[101]
    assert job.partition == "day" and not any(word.startswith("--gpus") for word in job.argv)
    assert job.name == f"bouchet-image-build-{PIN}-{ID}"
    folder = context.paths.job(job.name)
    for name in ("requirements.lock", "pin.yaml"):
        assert slurm.files[f"{folder}/{name}"] == (context.pins_dir / PIN / name).read_bytes()
    for name in ("vllm.def", "build.sh", "manifest.py", "oci.py"):
        assert slurm.files[f"{folder}/{name}"] == (context.recipe_dir / name).read_bytes()
    spec = json.loads(slurm.files[f"{folder}/spec.json"])
    assert (spec["action"], spec["source"], spec["in_use"], spec["build_gib"]) == ("build", "~/staged", [], 4)
    assert spec["images_dir"] == context.site.images_dir


def test_a_site_without_network_on_its_nodes_names_where_images_are_staged(
    make_context: MakeWorkerContext, slurm: FakeSlurm
) -> None:
    made = make_context()
    site = made.site.model_copy(update={"staged_images": "/staging"})
    context = dataclasses.replace(
        make_context(site=site), pins_dir=ROOT / "apptainer/pins", recipe_dir=ROOT / "apptainer"
    )
    submit_image_job(context, asked(context).id)
    spec = json.loads(slurm.files[f"{context.paths.job(slurm.jobs[101].name)}/spec.json"])
    assert (spec["source"], spec["staged"]) == (None, f"/staging/{PIN}")


def test_the_look_moves_a_build_to_its_end(context: AnyWorkerContext, slurm: FakeSlurm, loop: ReconcileLoop) -> None:
    submit_image_job(context, asked(context).id)
    slurm.start(101)
    path = f"{context.paths.job(slurm.jobs[101].name)}/progress.json"
    told: dict[str, object] = {"job_name": slurm.jobs[101].name, "state": "running", "step": "installing packages"}
    slurm.files[path] = json.dumps({**told, "stage": "packages", "done": 3, "of": 140}).encode()
    loop.step()
    record = context.store.images.get(ID)
    assert (record.state, record.reason) == (BatchJobState.RUNNING, "installing packages")
    assert (record.stage, record.done, record.of) == ("packages", 3, 140)
    done = {"state": "done", "sentence": "built in 100 s", "sha256": "ab" * 32, "bytes": 5, "seconds": 100}
    slurm.files[path] = json.dumps({**told, **done}).encode()
    slurm.finish(101, "COMPLETED")
    loop.step()
    ended = context.store.images.get(ID)
    assert (ended.state, ended.sha256, ended.seconds) == (BatchJobState.DONE, "ab" * 32, 100)


def test_a_build_cut_short_says_how_to_begin_anew(context: AnyWorkerContext, slurm: FakeSlurm, loop: ReconcileLoop) -> None:
    submit_image_job(context, asked(context).id)
    slurm.start(101)
    slurm.finish(101, "NODE_FAIL")
    loop.step()
    ended = context.store.images.get(ID)
    assert ended.state is BatchJobState.FAILED and f"`bouchet image build {PIN}`" in ended.reason


def test_a_cancelled_build_leaves_nothing(context: AnyWorkerContext, slurm: FakeSlurm, loop: ReconcileLoop) -> None:
    submit_image_job(context, asked(context).id)
    slurm.start(101)
    assert cancel_image_job(context, ID) == "cancelled job 101"
    loop.step()
    assert context.store.images.get(ID).state is BatchJobState.CANCELLED


def test_a_pin_that_went_meanwhile_fails_in_words(context: AnyWorkerContext, slurm: FakeSlurm) -> None:
    assert submit_image_job(context, asked(context, pin="gone-1.0").id) == "failed"
    assert "no pin 'gone-1.0'" in context.store.images.get(ID).reason and not slurm.jobs


def test_the_list_holds_pins_and_what_lies_there(context: AnyWorkerContext, slurm: FakeSlurm) -> None:
    wanted = find_pin(context.pins_dir, PIN).recipe_sha256((context.recipe_dir / "vllm.def").read_bytes())
    slurm.images = {PIN: {**ROW, "recipe_sha256": wanted}, "cuda13-0.32.0": {**ROW, "recipe_sha256": "old"}, "own": ROW}
    rows = {row.pin: row for row in list_images(context).images}
    assert {name: row.state for name, row in rows.items()} == {
        PIN: "ready",
        "cuda13-0.32.0": "outdated",
        "cuda128-0.19.1": "missing",
        "own": "ready",
    }
    assert rows[PIN].is_default and rows[PIN].vllm == "0.32.0+cpu" and not rows["own"].known
    assert rows["cuda128-0.19.1"].min_driver == "525"


def test_without_the_cluster_the_pins_are_listed_all_the_same(context: AnyWorkerContext, slurm: FakeSlurm) -> None:
    slurm.fault = lambda method, what: "tunnel_down"
    found = list_images(context)
    assert {row.state for row in found.images} == {"unknown"} and "tunnel_down" in found.problem


def test_an_image_in_use_is_not_removed(context: AnyWorkerContext, slurm: FakeSlurm) -> None:
    slurm.images = {PIN: dict(ROW)}
    context.store.create(requested("d1", context.now()))
    submit(context, "d1")
    assert [row.deployments for row in list_images(context).images if row.pin == PIN] == [
        (context.store.get("d1").alias,)
    ]
    with pytest.raises(ImageInUseError, match="--force"):
        remove_image(context, PIN, force=False)
    assert slurm.images
    assert remove_image(context, PIN, force=True).bytes == 5 and not slurm.images
    with pytest.raises(ImageMissingError):
        remove_image(context, PIN, force=True)
