"""Submit and stop, against a real Redis and a small Slurm; killed at every step and run again."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from bouchet_core.deployments import Deployment, Ending, Phase
from bouchet_core.keys import serving_key
from bouchet_core.store import Store
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.submit import cancel, submit
from bouchet_worker.scripts import COMPLETE_MARKER

from tests.fakes.slurm_gateway import FakeSlurm, job_ids
from tests.worker.crashes import CrashError, crashing_context, expire_lease
from tests.worker.scenario import SECRET, Clock, MakeWorkerContext, requested

SETTLED_S = 60.0


def finish(context: WorkerContext, clock: Clock, deployment: str) -> Deployment:
    for _ in range(4):
        submit(context, deployment)
        clock.advance(SETTLED_S)
    return context.store.get(deployment)


def test_a_launch_becomes_one_queued_job(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    assert submit(context, "aa") == "job 101"
    record = context.store.get("aa")
    assert record.phase is Phase.QUEUED and record.job is not None
    job = record.job
    assert (job.name, job.slot, job.slurm_id, job.image) == ("bouchet-aa-1", 0, 101, "cpu-0.32.0.sif")
    assert job.placement is not None and job.placement.partition == "gpu_devel"
    assert job.log == "/home/researcher/bouchet-llm/logs/101.log"
    assert slurm.files["/home/researcher/bouchet-llm/jobs/bouchet-aa-1/key"].decode().strip() == serving_key(
        SECRET, "bouchet-aa-1"
    )
    words = slurm.jobs[101].argv
    assert "--parsable" in words and "--output=/home/researcher/bouchet-llm/logs/%j.log" in words
    assert words[-3].endswith("/vllm-serve.sbatch") and words[-3] in slurm.files


def test_the_scripts_is_staged_once(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    for identity in ("aa", "bb"):
        context.store.create(requested(identity, clock()))
        submit(context, identity)
    assert len({path for path in slurm.files if "/remote/" in path}) == len(context.scripts.files) + 1


def test_scripts_that_came_in_part_is_not_sealed_and_comes_again(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    folder = context.paths.scripts(context.scripts.digest)
    slurm.fault = lambda method, what: "tunnel_down" if (method, what) == ("PUT", f"{folder}/guard.py") else None
    context.store.create(requested("aa", clock()))
    assert submit(context, "aa") == "retry later"
    assert f"{folder}/{COMPLETE_MARKER}" not in slurm.files and slurm.jobs == {}
    slurm.fault = lambda method, what: None
    clock.advance(SETTLED_S)
    assert submit(context, "aa") == "job 101"
    assert {f"{folder}/{name}" for name in (*context.scripts.files, COMPLETE_MARKER)} <= slurm.files.keys()


def test_submitting_again_does_nothing(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    assert submit(context, "aa") == "nothing to do"
    assert job_ids(slurm) == [101]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_call_a_launch_still_makes_one_job(
    make_context: MakeWorkerContext, store: Store, gateway: object, slurm: FakeSlurm, clock: Clock, after: bool
) -> None:
    for calls in range(1, 100):
        identity = f"d{calls}"
        slurm.files.clear()
        before = len(slurm.jobs)
        store.create(requested(identity, clock(), partition="gpu_h200"))
        dying, fuse = crashing_context(make_context, store, gateway, calls, after)
        with contextlib.suppress(CrashError):
            submit(dying, identity)
        expire_lease(store, identity)
        record = finish(make_context("heir"), clock, identity)
        assert record.phase is Phase.QUEUED, f"killed at call {calls}"
        assert record.job is not None and record.job.slurm_id == job_ids(slurm, record.job.name)[0]
        assert len(slurm.jobs) == before + 1, f"killed at call {calls}"
        cancel(make_context("heir"), identity)
        slurm.finish(record.job.slurm_id or 0, "CANCELLED")
        store.update(identity, lambda d: d.moved(Phase.ENDED, clock(), ending=Ending.CANCELLED))
        if fuse[0] > 0:
            assert calls > 15, "the task makes many calls, or the test tests nothing"
            return
    raise AssertionError("it never got through")


def test_a_lost_answer_is_looked_for_and_not_repeated(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    slurm.lose_answer = lambda method, what: "command_timeout" if what == "sbatch" else None
    assert submit(context, "aa") == "retry later"
    assert context.store.get("aa").phase is Phase.SUBMITTING
    slurm.lose_answer = lambda method, what: None
    assert submit(context, "aa") == "job 101"
    assert job_ids(slurm) == [101]


def test_a_job_that_ended_before_its_answer_came_is_found_in_accounting(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    slurm.lose_answer = lambda method, what: "command_timeout" if what == "sbatch" else None
    submit(context, "aa")
    slurm.finish(101, "FAILED", "1:0")
    slurm.lose_answer = lambda method, what: None
    assert submit(context, "aa") == "job 101"


def test_an_sbatch_that_never_arrived_is_repeated_only_when_it_cannot_arrive_any_more(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    slurm.fault = lambda method, what: "command_timeout" if what == "sbatch" else None
    assert submit(context, "aa") == "retry later"
    slurm.fault = lambda method, what: None
    assert submit(context, "aa") == "retry later"
    clock.advance(SETTLED_S)
    assert submit(context, "aa") == "job 101"


def test_a_slurm_that_timed_out_on_sbatch_is_looked_at_first(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    slurm.refusal = "Batch job submission failed: Socket timed out on send/recv operation"
    assert submit(context, "aa") == "retry later"
    assert context.store.get("aa").is_live


def test_two_workers_at_once_make_one_job(
    make_context: MakeWorkerContext, store: Store, slurm: FakeSlurm, clock: Clock
) -> None:
    store.create(requested("aa", clock()))
    contexts = [make_context(f"worker-{n}") for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda d: submit(d, "aa"), contexts))
    assert job_ids(slurm) == [101]
    assert answers.count("job 101") == 1


def test_what_slurm_refuses_ends_with_its_words(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    slurm.refusal = "Batch job submission failed: Invalid account or account/partition combination specified"
    submit(context, "aa")
    record = context.store.get("aa")
    assert record.ending is Ending.FAILED and "Invalid account" in record.reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpus": 64}, "nearest that would fit"),
        ({"partition": "nowhere"}, "knows no partition"),
        ({"time": "9-00:00:00"}, "2-00:00:00"),
    ],
)
def test_what_fits_nowhere_is_refused_before_slurm_hears_of_it(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock, options: dict[str, object], words: str
) -> None:
    context.store.create(requested("aa", clock(), **options))
    assert submit(context, "aa") == "failed"
    assert words in context.store.get("aa").reason
    assert "sbatch" not in slurm.programs()


def test_several_nodes_are_asked_of_slurm_each_with_its_gpus(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock(), partition="gpu_h200", gpus=2, nodes=2))
    submit(context, "aa")
    (argv,) = [argv for argv in slurm.calls if argv[0] == "sbatch"]
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=h200:1"} <= set(argv)


def test_no_free_slot_ends_the_launch_and_holds_nothing(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    for n in range(5):
        context.store.create(requested(f"d{n}", clock(), partition="gpu_h200"))
        submit(context, f"d{n}")
    record = context.store.get("d4")
    assert record.ending is Ending.FAILED and "slots" in record.reason
    assert len(slurm.jobs) == 4


def test_a_full_partition_is_passed_over_and_the_record_says_why(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    for n in range(3):
        context.store.create(requested(f"d{n}", clock()))
        submit(context, f"d{n}")
    job = context.store.get("d2").job
    assert job is not None and job.placement is not None
    assert job.placement.partition == "gpu_h200" and "gpu_devel takes 2" in job.placement.why


def test_partition_auto_takes_the_earliest_start(context: WorkerContext, clock: Clock) -> None:
    context.store.create(requested("aa", clock(), partition="auto"))
    submit(context, "aa")
    job = context.store.get("aa").job
    assert job is not None and job.placement is not None
    assert job.placement.partition == "gpu_h200" and "12:00:00" in job.placement.why


@pytest.mark.parametrize("kind", ["tunnel_down", "human_needed"])
def test_a_tunnel_that_is_down_waits(context: WorkerContext, slurm: FakeSlurm, clock: Clock, kind: str) -> None:
    context.store.create(requested("aa", clock()))
    slurm.fault = lambda method, what: kind
    assert submit(context, "aa") == "retry later"
    record = context.store.get("aa")
    assert record.is_live and "waiting for the SSH connection" in record.reason
    slurm.fault = lambda method, what: None
    assert submit(context, "aa") == "job 101"


def test_a_full_disk_ends_the_launch_in_words(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    slurm.fault = lambda method, what: "remote_refused" if method == "PUT" else None
    assert submit(context, "aa") == "failed"
    assert not slurm.jobs


# stop


def test_stop_before_anything_happened_ends_at_once(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    cancel(context, "aa")
    assert context.store.get("aa").ending is Ending.CANCELLED
    assert submit(context, "aa") == "nothing to do"
    assert not slurm.jobs


def test_stop_cancels_by_id_and_waits_for_slurms_word(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    assert cancel(context, "aa") == "cancelled job 101"
    assert slurm.calls[-1] == ["scancel", "101"]
    assert context.store.get("aa").is_live


def test_a_serving_job_may_finish_its_answers_before_it_is_cancelled_by_force(
    context: WorkerContext, slurm: FakeSlurm, clock: Clock
) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    context.store.update("aa", lambda d: d.moved(Phase.STARTING, clock()))
    context.store.update(
        "aa", lambda d: d.with_job(d.jobs[-1].model_copy(update={"node": "node1", "port": 1}), clock())
    )
    context.store.update("aa", lambda d: d.moved(Phase.READY, clock()))
    cancel(context, "aa")
    assert slurm.calls[-1] == ["scancel", "--batch", "--signal=TERM", "101"]
    assert context.store.get("aa").phase is Phase.DRAINING
    assert context.store.slot_target(0) is not None, "answers under way still pass"
    slurm.jobs[101].state = "RUNNING"
    clock.advance(60)
    cancel(context, "aa")
    assert slurm.calls[-1] == ["scancel", "101"]


def test_stop_leaves_a_job_alone_that_is_not_ours(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    submit(context, "aa")
    slurm.jobs[101].name = "somebody-elses"
    assert cancel(context, "aa") == "not in the queue"
    assert "scancel" not in slurm.programs()


def test_stop_finds_a_job_whose_answer_was_lost(context: WorkerContext, slurm: FakeSlurm, clock: Clock) -> None:
    context.store.create(requested("aa", clock()))
    slurm.lose_answer = lambda method, what: "command_timeout" if what == "sbatch" else None
    submit(context, "aa")
    assert cancel(context, "aa") == "cancelled job 101"
    record = context.store.get("aa")
    assert record.job is not None and record.job.slurm_id == 101


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_call_a_cancel_still_cancels(
    make_context: MakeWorkerContext, store: Store, gateway: object, slurm: FakeSlurm, clock: Clock, after: bool
) -> None:
    for calls in range(1, 30):
        identity = f"d{calls}"
        store.create(requested(identity, clock(), partition="gpu_h200"))
        submit(make_context(), identity)
        job = store.get(identity).job
        assert job is not None and job.slurm_id is not None
        dying, fuse = crashing_context(make_context, store, gateway, calls, after)
        with contextlib.suppress(CrashError):
            cancel(dying, identity)
        expire_lease(store, identity)
        cancel(make_context("heir"), identity)
        assert slurm.jobs[job.slurm_id].state.startswith("CANCELLED"), f"killed at call {calls}"
        store.update(identity, lambda d: d.moved(Phase.ENDED, clock(), ending=Ending.CANCELLED))
        if fuse[0] > 0:
            return
    raise AssertionError("it never got through")
