"""Images in the worker: one job a pin, what lies on the cluster, what may be removed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from bouchet_core.batch_jobs import BatchJobState
from bouchet_core.errors import ImageInUseError, ImageMissingError
from bouchet_core.images import ImageJob, find_pin
from bouchet_worker.batch.image import image, list_images, remove_image, stop_image
from bouchet_worker.context import Desk as AnyDesk
from bouchet_worker.launch.submit import submit
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import Loop
from bouchet_worker.reconcile.observe import Observer

from tests.fakes.slurm_gateway import FakeSlurm

from .conftest import SECRET, MakeDesk, requested

ROOT = Path(__file__).parents[2]
ID, PIN = "abcdefghijkl", "cpu-0.32.0"
ROW: dict[str, object] = {"bytes": 5, "made_at": 1763800000, "sha256": "ab" * 32, "vllm": "0.32.0+cpu"}


@pytest.fixture
def desk(make_desk: MakeDesk) -> AnyDesk:
    made = make_desk()
    return dataclasses.replace(made, pins_dir=ROOT / "apptainer" / "pins", recipe_dir=ROOT / "apptainer")


@pytest.fixture
def loop(desk: AnyDesk) -> Loop:
    return Loop(desk, Observer(desk.gateway, desk.layout, SlotProbe("127.0.0.1", 1, SECRET)), lambda *_: None)


def asked(desk: AnyDesk, **fields: object) -> ImageJob:
    """A record as the api makes it."""
    words = {"id": ID, "pin": PIN, "created_at": desk.now(), "updated_at": desk.now(), **fields}
    return desk.store.images.create(ImageJob.model_validate(words))


def test_a_build_is_a_job_without_gpus_that_has_its_pin_along(desk: AnyDesk, slurm: FakeSlurm) -> None:
    assert image(desk, asked(desk, source="~/staged").id) == "job 101"
    job = slurm.jobs[101]
    assert job.partition == "day" and not any(word.startswith("--gpus") for word in job.argv)
    assert job.name == f"bouchet-image-build-{PIN}-{ID}"
    folder = desk.layout.job(job.name)
    for name in ("requirements.lock", "pin.yaml"):
        assert slurm.files[f"{folder}/{name}"] == (desk.pins_dir / PIN / name).read_bytes()
    for name in ("vllm.def", "build.sh", "manifest.py", "oci.py"):
        assert slurm.files[f"{folder}/{name}"] == (desk.recipe_dir / name).read_bytes()
    spec = json.loads(slurm.files[f"{folder}/spec.json"])
    assert (spec["action"], spec["source"], spec["in_use"], spec["build_gib"]) == ("build", "~/staged", [], 4)
    assert spec["images_dir"] == desk.site.images_dir


def test_a_site_without_network_on_its_nodes_names_where_images_are_staged(
    make_desk: MakeDesk, slurm: FakeSlurm
) -> None:
    made = make_desk()
    site = made.site.model_copy(update={"staged_images": "/staging"})
    desk = dataclasses.replace(make_desk(site=site), pins_dir=ROOT / "apptainer/pins", recipe_dir=ROOT / "apptainer")
    image(desk, asked(desk).id)
    spec = json.loads(slurm.files[f"{desk.layout.job(slurm.jobs[101].name)}/spec.json"])
    assert (spec["source"], spec["staged"]) == (None, f"/staging/{PIN}")


def test_the_look_moves_a_build_to_its_end(desk: AnyDesk, slurm: FakeSlurm, loop: Loop) -> None:
    image(desk, asked(desk).id)
    slurm.start(101)
    path = f"{desk.layout.job(slurm.jobs[101].name)}/progress.json"
    told: dict[str, object] = {"job_name": slurm.jobs[101].name, "state": "running", "step": "installing packages"}
    slurm.files[path] = json.dumps({**told, "stage": "packages", "done": 3, "of": 140}).encode()
    loop.step()
    record = desk.store.images.get(ID)
    assert (record.state, record.reason) == (BatchJobState.RUNNING, "installing packages")
    assert (record.stage, record.done, record.of) == ("packages", 3, 140)
    done = {"state": "done", "sentence": "built in 100 s", "sha256": "ab" * 32, "bytes": 5, "seconds": 100}
    slurm.files[path] = json.dumps({**told, **done}).encode()
    slurm.finish(101, "COMPLETED")
    loop.step()
    ended = desk.store.images.get(ID)
    assert (ended.state, ended.sha256, ended.seconds) == (BatchJobState.DONE, "ab" * 32, 100)


def test_a_build_cut_short_says_how_to_begin_anew(desk: AnyDesk, slurm: FakeSlurm, loop: Loop) -> None:
    image(desk, asked(desk).id)
    slurm.start(101)
    slurm.finish(101, "NODE_FAIL")
    loop.step()
    ended = desk.store.images.get(ID)
    assert ended.state is BatchJobState.FAILED and f"`bouchet image build {PIN}`" in ended.reason


def test_a_cancelled_build_leaves_nothing(desk: AnyDesk, slurm: FakeSlurm, loop: Loop) -> None:
    image(desk, asked(desk).id)
    slurm.start(101)
    assert stop_image(desk, ID) == "cancelled job 101"
    loop.step()
    assert desk.store.images.get(ID).state is BatchJobState.CANCELLED


def test_a_pin_that_went_meanwhile_fails_in_words(desk: AnyDesk, slurm: FakeSlurm) -> None:
    assert image(desk, asked(desk, pin="gone-1.0").id) == "failed"
    assert "no pin 'gone-1.0'" in desk.store.images.get(ID).reason and not slurm.jobs


def test_the_list_holds_pins_and_what_lies_there(desk: AnyDesk, slurm: FakeSlurm) -> None:
    wanted = find_pin(desk.pins_dir, PIN).recipe_sha256((desk.recipe_dir / "vllm.def").read_bytes())
    slurm.images = {PIN: {**ROW, "recipe_sha256": wanted}, "cuda13-0.32.0": {**ROW, "recipe_sha256": "old"}, "own": ROW}
    rows = {row.pin: row for row in list_images(desk).images}
    assert {name: row.state for name, row in rows.items()} == {
        PIN: "ready",
        "cuda13-0.32.0": "outdated",
        "cuda128-0.19.1": "missing",
        "own": "ready",
    }
    assert rows[PIN].is_default and rows[PIN].vllm == "0.32.0+cpu" and not rows["own"].known
    assert rows["cuda128-0.19.1"].min_driver == "525"


def test_without_the_cluster_the_pins_are_listed_all_the_same(desk: AnyDesk, slurm: FakeSlurm) -> None:
    slurm.fault = lambda method, what: "tunnel_down"
    found = list_images(desk)
    assert {row.state for row in found.images} == {"unknown"} and "tunnel_down" in found.problem


def test_an_image_in_use_is_not_removed(desk: AnyDesk, slurm: FakeSlurm) -> None:
    slurm.images = {PIN: dict(ROW)}
    desk.store.create(requested("d1", desk.now()))
    submit(desk, "d1")
    assert [row.deployments for row in list_images(desk).images if row.pin == PIN] == [(desk.store.get("d1").alias,)]
    with pytest.raises(ImageInUseError, match="--force"):
        remove_image(desk, PIN, force=False)
    assert slurm.images
    assert remove_image(desk, PIN, force=True).bytes == 5 and not slurm.images
    with pytest.raises(ImageMissingError):
        remove_image(desk, PIN, force=True)
