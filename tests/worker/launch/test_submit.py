"""Submission of deployments to a fake Slurm, with a real Redis."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bouchet_core.config.job_scripts import COMPLETE_MARKER
from bouchet_core.deployments import Ending, Phase, Placement
from bouchet_core.keys import serving_key
from bouchet_core.store import Store
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import submit
from bouchet_worker.slurm.submission import BUSY_ELSEWHERE, FAILED, NOTHING_TO_DO, RETRY_LATER

from tests.fakes.slurm_gateway import FakeSlurm, job_ids
from tests.worker.scenario import ROOT, SECRET, Clock, MakeWorkerContext, requested

# longer than a lost sbatch may take to arrive
ARRIVED_S = 60.0


def lose_answer_of_sbatch(slurm: FakeSlurm) -> None:
    slurm.lose_answer = lambda method, what: "command_timeout" if what == "sbatch" else None


def placement_of(context: WorkerContext, deployment: str) -> Placement:
    job = context.store.get(deployment).job
    assert job is not None and job.placement is not None
    return job.placement


def test_submit_creates_one_queued_job(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    assert submit(context, "aa") == "job 101"
    record = context.store.get("aa")
    assert record.phase is Phase.QUEUED and record.job is not None
    job = record.job
    assert (job.name, job.slot, job.slurm_id, job.image) == ("bouchet-aa-1", 0, 101, "cpu-0.32.0.sif")
    assert placement_of(context, "aa").partition == "gpu_devel"
    assert job.log == f"{ROOT}/logs/101.log"
    key = slurm.files[f"{ROOT}/jobs/bouchet-aa-1/key"].decode().strip()
    assert key == serving_key(SECRET, "bouchet-aa-1")
    argv = slurm.jobs[101].argv
    assert "--parsable" in argv and f"--output={ROOT}/logs/%j.log" in argv
    assert argv[-3].endswith("/vllm-serve.sbatch") and argv[-3] in slurm.files


def test_submit_shows_what_a_job_submit_plugin_prints(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    slurm.plugin_output = "Thank you for using the cluster\n"
    slurm.plugin_message = "sbatch: lua: your account has used 80 % of its hours\n"
    context.store.create(requested("aa", clock()))
    assert submit(context, "aa") == "job 101"
    record = context.store.get("aa")
    message = "your account has used 80 % of its hours"
    assert record.reason == f"submitted; the site's message: {message}"
    assert record.job is not None and record.job.site_message == message


def test_submit_of_unknown_deployment_does_nothing(context: WorkerContext, slurm: FakeSlurm) -> None:
    assert submit(context, "gone") == "no such deployment"
    assert slurm.calls == []


def test_submit_uploads_the_scripts_once(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    for identity in ("aa", "bb"):
        context.store.create(requested(identity, clock()))
        submit(context, identity)
    assert len({path for path in slurm.files if "/remote/" in path}) == len(context.scripts.files) + 1


def test_interrupted_script_upload_is_repeated(new_cluster: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    folder = new_cluster.scripts_dir
    slurm.fault = lambda method, what: "tunnel_down" if (method, what) == ("PUT", f"{folder}/guard.py") else None
    new_cluster.store.create(requested("aa", clock()))
    assert submit(new_cluster, "aa") == RETRY_LATER
    assert f"{folder}/{COMPLETE_MARKER}" not in slurm.files and slurm.jobs == {}
    slurm.fault = lambda method, what: None
    clock.advance(ARRIVED_S)
    assert submit(new_cluster, "aa") == "job 101"
    assert {f"{folder}/{name}" for name in (*new_cluster.scripts.files, COMPLETE_MARKER)} <= slurm.files.keys()


def test_second_submit_does_nothing(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    assert submit(context, "aa") == NOTHING_TO_DO
    assert job_ids(slurm) == [101]


def test_concurrent_submits_create_one_job(
    make_context: MakeWorkerContext, store: Store, slurm: FakeSlurm, clock: Clock
) -> None:
    store.create(requested("aa", clock()))
    contexts = [make_context(f"worker-{n}") for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda each: submit(each, "aa"), contexts))
    assert job_ids(slurm) == [101]
    assert results.count("job 101") == 1
    assert set(results) <= {"job 101", BUSY_ELSEWHERE, NOTHING_TO_DO}


# an sbatch without an answer


def test_lost_answer_of_sbatch_finds_the_job(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    lose_answer_of_sbatch(slurm)
    assert submit(context, "aa") == RETRY_LATER
    assert context.store.get("aa").phase is Phase.SUBMITTING
    slurm.lose_answer = lambda method, what: None
    assert submit(context, "aa") == "job 101"
    assert job_ids(slurm) == [101]


def test_lost_answer_of_ended_job_finds_it_in_accounting(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    lose_answer_of_sbatch(slurm)
    submit(context, "aa")
    slurm.finish(101, "FAILED", "1:0")
    slurm.lose_answer = lambda method, what: None
    assert submit(context, "aa") == "job 101"


def test_sbatch_that_never_arrived_is_repeated_after_the_limit(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    slurm.fault = lambda method, what: "command_timeout" if what == "sbatch" else None
    assert submit(context, "aa") == RETRY_LATER
    slurm.fault = lambda method, what: None
    assert submit(context, "aa") == RETRY_LATER
    clock.advance(ARRIVED_S)
    assert submit(context, "aa") == "job 101"


def test_sbatch_timeout_of_slurm_keeps_the_deployment(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    slurm.refusal = "Batch job submission failed: Socket timed out on send/recv operation"
    assert submit(context, "aa") == RETRY_LATER
    assert context.store.get("aa").is_live


# refusals


def test_refusal_by_slurm_ends_the_deployment_with_its_error(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    slurm.refusal = "Batch job submission failed: Invalid account or account/partition combination specified"
    assert submit(context, "aa") == FAILED
    record = context.store.get("aa")
    assert record.ending is Ending.FAILED and "Invalid account" in record.reason


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"gpus": 64}, "nearest that would fit"),
        ({"partition": "nowhere"}, "has no partition"),
        ({"time": "9-00:00:00"}, "2-00:00:00"),
    ],
)
def test_request_without_placement_fails_before_sbatch(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock, options: dict[str, Any], part: str
) -> None:
    context.store.create(requested("aa", clock(), **options))
    assert submit(context, "aa") == FAILED
    assert part in context.store.get("aa").reason
    assert "sbatch" not in slurm.programs()


def test_submit_without_free_slot_ends_the_deployment(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    for n in range(5):
        context.store.create(requested(f"d{n}", clock(), partition="gpu_h200"))
        submit(context, f"d{n}")
    record = context.store.get("d4")
    assert record.ending is Ending.FAILED and "slots" in record.reason
    assert len(slurm.jobs) == 4


def test_refused_upload_ends_the_deployment(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    slurm.fault = lambda method, what: "remote_refused" if method == "PUT" else None
    assert submit(context, "aa") == FAILED
    assert not slurm.jobs


@pytest.mark.parametrize("kind", ["tunnel_down", "human_needed"])
def test_submit_without_tunnel_waits(context: WorkerContext, slurm: FakeSlurm, clock: Clock, kind: str) -> None:
    context.store.create(requested("aa", clock()))
    slurm.fault = lambda method, what: kind
    assert submit(context, "aa") == RETRY_LATER
    record = context.store.get("aa")
    assert record.is_live and "waiting for the SSH connection" in record.reason
    slurm.fault = lambda method, what: None
    assert submit(context, "aa") == "job 101"


# placement


def test_submit_to_several_nodes_requests_gpus_per_node(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock(), partition="gpu_h200", gpus=2, nodes=2))
    submit(context, "aa")
    (argv,) = [argv for argv in slurm.calls if argv[0] == "sbatch"]
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=h200:1"} <= set(argv)


def test_submit_skips_a_full_partition_and_records_why(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    for n in range(3):
        context.store.create(requested(f"d{n}", clock()))
        submit(context, f"d{n}")
    placement = placement_of(context, "d2")
    assert placement.partition == "gpu_h200" and "gpu_devel has a limit of 2 jobs" in placement.why


def test_submit_with_partition_auto_takes_the_earliest_start(context: WorkerContext, clock: Clock) -> None:
    context.store.create(requested("aa", clock(), partition="auto"))
    submit(context, "aa")
    placement = placement_of(context, "aa")
    assert placement.partition == "gpu_h200" and "12:00:00" in placement.why
