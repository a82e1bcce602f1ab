"""Image builds and verifications: one job per pin, followed by the reconcile loop until its end."""

from __future__ import annotations

import json

import pytest
from bouchet_core.batch_jobs import BatchJobState
from bouchet_core.images import ImageJob
from bouchet_worker.batch.image import cancel_image_job, submit_image_job
from bouchet_worker.context import WorkerContext
from bouchet_worker.reconcile.health import SlotProbe
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer
from bouchet_worker.slurm.submission import FAILED

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import SECRET, MakeWorkerContext

ID, PIN = "abcdefghijkl", "cpu-0.32.0"


@pytest.fixture
def loop(context: WorkerContext) -> ReconcileLoop:
    observer = Observer(context, SlotProbe("127.0.0.1", 1, SECRET))
    return ReconcileLoop(context, observer, lambda task, record: None)


def create(context: WorkerContext, **fields: object) -> ImageJob:
    """Create a record as the API does."""
    now = context.now()
    record = ImageJob.model_validate({"id": ID, "pin": PIN, "created_at": now, "updated_at": now, **fields})
    return context.store.images.create(record)


def spec_of(context: WorkerContext, slurm: FakeSlurm) -> dict[str, object]:
    spec: dict[str, object] = json.loads(slurm.files[f"{context.paths.job(slurm.jobs[101].name)}/spec.json"])
    return spec


def test_build_is_a_job_without_gpus_with_the_files_of_its_pin(context: WorkerContext, slurm: FakeSlurm) -> None:
    create(context, source="~/staged")
    assert submit_image_job(context, ID) == "job 101"
    job = slurm.jobs[101]
    assert job.partition == "day" and not any(option.startswith("--gpus") for option in job.argv)
    assert job.name == f"bouchet-image-build-{PIN}-{ID}"
    folder = context.paths.job(job.name)
    for name in ("requirements.lock", "pin.yaml"):
        assert slurm.files[f"{folder}/{name}"] == (context.pins_dir / PIN / name).read_bytes()
    for name in ("vllm.def", "build.sh", "manifest.py", "oci.py"):
        assert slurm.files[f"{folder}/{name}"] == (context.recipe_dir / name).read_bytes()
    spec = spec_of(context, slurm)
    assert (spec["action"], spec["source"], spec["in_use"], spec["build_gib"]) == ("build", "~/staged", [], 4)
    assert spec["images_dir"] == context.site.images_dir


def test_verification_uploads_no_recipe(context: WorkerContext, slurm: FakeSlurm) -> None:
    create(context, action="verify")
    submit_image_job(context, ID)
    folder = context.paths.job(slurm.jobs[101].name)
    names = {path.rpartition("/")[2] for path in slurm.files if path.startswith(folder)}
    assert names == {"spec.json", "setup.sh"}


def test_build_spec_names_the_staged_image_of_the_site(
    context: WorkerContext, make_context: MakeWorkerContext, slurm: FakeSlurm
) -> None:
    site = context.site.model_copy(update={"staged_images": "/staging"})
    context = make_context(site=site, pins_dir=context.pins_dir, recipe_dir=context.recipe_dir)
    create(context)
    submit_image_job(context, ID)
    spec = spec_of(context, slurm)
    assert (spec["source"], spec["staged"]) == (None, f"/staging/{PIN}")


def test_build_advances_to_its_end(context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop) -> None:
    create(context)
    submit_image_job(context, ID)
    slurm.start(101)
    name = slurm.jobs[101].name
    path = f"{context.paths.job(name)}/progress.json"
    progress: dict[str, object] = {"job_name": name, "state": "running", "step": "installing packages"}
    slurm.files[path] = json.dumps({**progress, "stage": "packages", "done": 3, "of": 140}).encode()
    loop.step()
    record = context.store.images.get(ID)
    assert (record.state, record.reason) == (BatchJobState.RUNNING, "installing packages")
    assert (record.stage, record.done, record.of) == ("packages", 3, 140)
    done = {"state": "done", "sentence": "built in 100 s", "sha256": "ab" * 32, "bytes": 5, "seconds": 100}
    slurm.files[path] = json.dumps({**progress, **done}).encode()
    slurm.finish(101, "COMPLETED")
    loop.step()
    ended = context.store.images.get(ID)
    assert (ended.state, ended.sha256, ended.seconds) == (BatchJobState.DONE, "ab" * 32, 100)


def test_build_record_has_steps_that_no_observation_saw(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    create(context)
    submit_image_job(context, ID)
    slurm.start(101)
    name = slurm.jobs[101].name
    steps = [{"name": "packing the image", "at": 1_800_000_000.5}, {"name": "hashing the image", "at": 1_800_000_001}]
    progress = {"job_name": name, "state": "done", "sentence": "built in 1 s", "steps": steps}
    slurm.files[f"{context.paths.job(name)}/progress.json"] = json.dumps(progress).encode()
    slurm.finish(101, "COMPLETED")
    loop.step()
    ended = context.store.images.get(ID)
    assert [(step.name, step.at.timestamp()) for step in ended.steps] == [(s["name"], s["at"]) for s in steps]


def test_interrupted_build_says_how_to_start_again(
    context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop
) -> None:
    create(context)
    submit_image_job(context, ID)
    slurm.start(101)
    slurm.finish(101, "NODE_FAIL")
    loop.step()
    ended = context.store.images.get(ID)
    assert ended.state is BatchJobState.FAILED and f"`bouchet image build {PIN}`" in ended.reason


def test_cancelled_build_ends_as_cancelled(context: WorkerContext, slurm: FakeSlurm, loop: ReconcileLoop) -> None:
    create(context)
    submit_image_job(context, ID)
    slurm.start(101)
    assert cancel_image_job(context, ID) == "cancelled job 101"
    loop.step()
    assert context.store.images.get(ID).state is BatchJobState.CANCELLED


def test_build_of_removed_pin_fails(context: WorkerContext, slurm: FakeSlurm) -> None:
    create(context, pin="gone-1.0")
    assert submit_image_job(context, ID) == FAILED
    record = context.store.images.get(ID)
    assert "gone-1.0" in record.reason and record.kind == "launch_refused" and not slurm.jobs


def test_build_of_a_pin_for_other_cpus_fails_before_anything_is_submitted(
    context: WorkerContext, slurm: FakeSlurm
) -> None:
    create(context, pin="cpu-arm64-0.32.0")
    assert submit_image_job(context, ID) == FAILED
    record = context.store.images.get(ID)
    assert "is for aarch64" in record.reason and record.kind == "launch_refused" and not slurm.jobs
