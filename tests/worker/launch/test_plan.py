"""What a preview shows is what a launch stages and runs; and a preview leaves nothing anywhere."""

from __future__ import annotations

from bouchet_core.keys import serving_key
from bouchet_worker import tasks as tasks
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.plan import preview
from bouchet_worker.launch.submit import submit

from tests.fakes.slurm_gateway import FakeSlurm
from tests.worker.scenario import ROOT, SECRET, Clock, requested


def test_a_preview_leaves_nothing_behind(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    for partition in ("gpu_h200", "auto"):
        preview(context, requested("preview", clock(), partition=partition))
    assert slurm.files == {} and slurm.jobs == {}
    assert context.store.page(10, 0) == [] and context.store.take_slot("other", 1) == 0
    assert set(slurm.programs()) == {"squeue", "sbatch"}
    assert all("--test-only" in argv for argv in slurm.calls if argv[0] == "sbatch")


def test_the_launch_stages_and_runs_what_the_preview_shows(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    options = {"gpus": 2, "time": "01:30:00", "max_len": 4096, "idle_timeout_min": 7, "qos": "q", "constraint": "a&b"}
    shown = preview(context, requested("preview", clock(), **options))
    record = requested("aa", clock(), **options)
    context.store.create(record.model_copy(update={"names": ("bouchet-preview",)}))
    submit(context, "aa")

    def launched(text: str) -> str:
        return text.replace("bouchet-preview-1", "bouchet-aa-1").replace('"preview"', '"aa"')

    folder = f"{ROOT}/jobs/bouchet-aa-1"
    staged = {path.rpartition("/")[2]: data.decode() for path, data in slurm.files.items() if path.startswith(folder)}
    assert {name: launched(text) for name, text in shown["files"].items()}.items() <= staged.items()
    assert set(staged) - set(shown["files"]) == {"key", "record.json"}
    command = [launched(word) for word in shown["command"]]
    assert slurm.calls[-1] == command
    assert slurm.files[command[-3]].decode() == shown["script"]


def test_no_secret_is_in_it(context: WorkerContext, clock: Clock) -> None:
    shown = preview(context, requested("preview", clock()))
    assert "key" not in shown["files"]
    assert SECRET not in str(shown) and serving_key(SECRET, shown["job_name"]) not in str(shown)


def test_what_cannot_be_is_an_answer_too(context: WorkerContext, clock: Clock) -> None:
    tasks.set_context(context)
    record = requested("preview", clock(), gpus=3, partition="gpu_devel").model_dump(mode="json")
    answer = tasks.preview(record)
    assert answer["kind"] == "launch_refused" and "nearest that would fit" in answer["detail"]
