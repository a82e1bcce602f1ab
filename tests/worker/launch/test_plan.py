"""Plans of launches: a preview shows what a launch stages and submits, and changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bouchet_core.deployments import Placement
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.keys import serving_key
from bouchet_worker import tasks
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.plan import plan_launch, preview, restore_plan
from bouchet_worker.launch.submit import submit

from tests.fakes.slurm_gateway import FakeJob, FakeSlurm
from tests.worker.scenario import ROOT, SECRET, Clock, requested


def test_preview_changes_nothing(new_cluster: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    for partition in ("gpu_h200", "auto"):
        preview(new_cluster, requested("preview", clock(), partition=partition))
    assert slurm.files == {} and slurm.jobs == {}
    assert new_cluster.store.page(10, 0) == [] and new_cluster.store.take_slot("other", "job", 1) == 0
    assert set(slurm.programs()) == {"squeue", "sbatch"}
    assert all("--test-only" in argv for argv in slurm.calls if argv[0] == "sbatch")


def test_partition_auto_passes_over_one_where_a_job_of_the_user_runs_at_its_limit(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    limits = {"gpu_h200": {"max_running": 1}}
    partitions = [one.model_copy(update=limits.get(one.name, {})) for one in context.site.partitions]
    limited = replace(context, site=context.site.model_copy(update={"partitions": tuple(partitions)}))
    wanted = requested("preview", clock(), partition="auto")
    assert preview(limited, wanted)["placement"]["partition"] == "gpu_h200", "it has the earlier start"
    slurm.jobs[7] = FakeJob(7, "another", "gpu_h200", ["--gpus=h200:1"], state="RUNNING", node="node1")
    placement = preview(limited, wanted)["placement"]
    assert placement["partition"] == "gpu_devel" and "gpu_h200, after one of your jobs there ends" in placement["why"]


def test_preview_says_what_slurm_would_refuse(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    slurm.refusal = "Batch job submission failed: Invalid account or account/partition combination specified"
    with pytest.raises(LaunchRefusedError, match=r"Invalid account.*use another --account"):
        preview(context, requested("preview", clock(), account="nope"))
    # a controller that is busy says nothing about the job
    slurm.refusal = "Batch job submission failed: Resource temporarily unavailable"
    assert preview(context, requested("preview", clock()))["placement"]


def test_preview_has_the_idle_timeout_and_the_tiers(context: WorkerContext, clock: Clock) -> None:
    shown = preview(context, requested("preview", clock(), idle_timeout_min=7, serve_as=("haiku",)))
    assert (shown["idle_timeout_min"], shown["serve_as"]) == (7, ["haiku"])


def test_launch_stages_and_submits_what_the_preview_shows(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    options: dict[str, Any] = {
        "gpus": 2,
        "time": "01:30:00",
        "max_len": 4096,
        "idle_timeout_min": 7,
        "qos": "q",
        "constraint": "a&b",
    }
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
    command = [launched(argument) for argument in shown["command"]]
    assert slurm.calls[-1] == command
    assert slurm.files[command[-3]].decode() == shown["script"]


def test_preview_contains_no_secret(context: WorkerContext, clock: Clock) -> None:
    shown = preview(context, requested("preview", clock()))
    assert "key" not in shown["files"]
    assert SECRET not in str(shown) and serving_key(SECRET, shown["job_name"]) not in str(shown)


def test_preview_task_of_impossible_request_returns_the_error(context: WorkerContext, clock: Clock) -> None:
    tasks.set_context(context)
    record = requested("preview", clock(), gpus=3, partition="gpu_devel").model_dump(mode="json")
    answer = tasks.preview(record)
    assert answer["kind"] == "launch_refused" and "nearest that would fit" in answer["detail"]


def test_restore_plan_returns_the_submitted_plan(context: WorkerContext, clock: Clock) -> None:
    record = requested("aa", clock(), gpus=2)
    plan = plan_launch(context, record)
    planned = record.with_job(plan.job(0, clock()), clock())
    restored = restore_plan(context, planned)
    assert restored.spec == plan.spec and restored.command(context) == plan.command(context)
    assert isinstance(restored.placement, Placement)
