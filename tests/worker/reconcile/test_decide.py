"""decide() is total over phases and observations; words for people are complete."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from bouchet_core.deployments import LEGAL_MOVES, Deployment, Ending, Job, Phase, Placement
from bouchet_core.tasks import TaskName
from bouchet_worker.reconcile.decide import NOTHING, apply, decide
from bouchet_worker.reconcile.endings import classify_ending
from bouchet_worker.reconcile.observation import (
    ConnectionFile,
    EndFile,
    HealthReport,
    HealthStatus,
    JobNotFound,
    JobStatus,
    Observed,
    QueryFailed,
    QueryResult,
)
from bouchet_worker.reconcile.startup import parse_progress
from bouchet_worker.slurm.pending_reasons import REASONS, describe_pending_reason
from bouchet_worker.slurm.states import STATES, State, StateClass

from tests.worker.scenario import requested

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=5)
PLACE = Placement(partition="gpu_h200", gpus=1, gpu_type="h200", nodes=1, cpus=6, memory_gib=240, walltime_s=21_600)
CONNECTION = ConnectionFile(job_name="bouchet-aa-1", node="node1", port=20001, image="i.sif", image_sha256="ab")
ANSWERS: list[QueryResult] = [
    *(JobStatus(state, state.value, "Priority", "node1") for state in State),
    JobNotFound(),
    QueryFailed("down"),
]
HEALTHS = [None, *(HealthReport(answering) for answering in HealthStatus)]
KINDS = ("vllm_exited", "idle", "walltime", "stopped", "refused")
NOTES = [None, *(EndFile(job_name="bouchet-aa-1", kind=kind, sentence="s") for kind in KINDS)]


def in_phase(phase: Phase, *, stop: bool = False, submitted: bool = True) -> Deployment:
    record = requested("aa", LONG_AGO)
    job = Job(
        name="bouchet-aa-1",
        slot=0,
        phase=phase,
        slurm_id=7 if submitted else None,
        placement=PLACE,
        node="node1" if phase in (Phase.READY, Phase.DRAINING) else None,
        port=20001 if phase in (Phase.READY, Phase.DRAINING, Phase.STARTING) else None,
        since={phase: LONG_AGO},
    )
    jobs = () if phase is Phase.REQUESTED else (job,)
    return record.model_copy(update={"phase": phase, "jobs": jobs, "stop_requested_at": LONG_AGO if stop else None})


def submitted_phases() -> list[Phase]:
    return [Phase.QUEUED, Phase.STARTING, Phase.READY, Phase.DRAINING]


def test_every_observation_in_every_phase_gives_a_legal_move() -> None:
    for phase, answer, health, note, connection, stop in product(
        Phase, ANSWERS, HEALTHS, NOTES, (None, CONNECTION), (False, True)
    ):
        record = in_phase(phase, stop=stop, submitted=phase is not Phase.SUBMITTING)
        decision = decide(record, Observed(answer, connection, health, "", note), NOW)
        new = apply(record, decision, NOW)
        assert new is record or new.version == record.version + 1
        assert new.phase is record.phase or new.phase in LEGAL_MOVES[record.phase]
        assert (new.phase is Phase.ENDED) == (new.ending is not None) or record.phase is Phase.ENDED
        if new.phase is Phase.ENDED and record.phase is not Phase.ENDED:
            assert new.reason, (phase, answer, note)
        assert (
            apply(new, decide(new, Observed(answer, connection, health, "", note), NOW), NOW).version <= new.version + 1
        )


def test_could_not_look_changes_nothing_ever() -> None:
    for phase, stop in product([*submitted_phases(), Phase.ENDED], (False, True)):
        assert decide(in_phase(phase, stop=stop), Observed(QueryFailed()), NOW) == NOTHING


def test_an_ended_state_ends_every_phase_and_a_live_one_none() -> None:
    for phase, state in product(submitted_phases(), State):
        new = apply(in_phase(phase), decide(in_phase(phase), Observed(JobStatus(state, state.value)), NOW), NOW)
        assert (new.phase is Phase.ENDED) == (STATES[state].state_class is StateClass.ENDED), (phase, state)


def test_whoever_is_wanted_no_more_is_stopped_while_slurm_has_it() -> None:
    for phase, state in product(submitted_phases(), State):
        decision = decide(in_phase(phase, stop=True), Observed(JobStatus(state, state.value)), NOW)
        runs = STATES[state].state_class in (StateClass.WAITING, StateClass.RUNNING, StateClass.PAUSED)
        assert (decision.task is TaskName.CANCEL) == runs, (phase, state)


def test_a_lost_task_is_sent_again_after_a_moment() -> None:
    for phase in (Phase.REQUESTED, Phase.SUBMITTING):
        record = in_phase(phase, submitted=False)
        assert decide(record, Observed(QueryFailed()), LONG_AGO + timedelta(seconds=1)).task is None
        assert decide(record, Observed(QueryFailed()), NOW).task is TaskName.SUBMIT
        assert decide(in_phase(phase, submitted=False, stop=True), Observed(QueryFailed()), NOW).task is TaskName.CANCEL


def test_ready_needs_an_answer_and_a_place() -> None:
    running = JobStatus(State.RUNNING, "RUNNING", node="node1")
    healthy = Observed(running, health=HealthReport(HealthStatus.HEALTHY, window=4096, vllm_version="0.32.0"))
    starting = in_phase(Phase.STARTING)
    ready = apply(starting, decide(starting, healthy, NOW), NOW)
    assert ready.phase is Phase.READY and ready.job is not None and ready.job.window == 4096
    assert apply(starting, decide(starting, Observed(running), NOW), NOW).phase is Phase.STARTING


def test_one_slow_health_answer_is_no_news_and_a_long_silence_is() -> None:
    running = JobStatus(State.RUNNING, "RUNNING")
    ready = in_phase(Phase.READY)
    for failing_s, says in ((2.0, False), (30.0, True)):
        new = apply(
            ready, decide(ready, Observed(running, health=HealthReport(HealthStatus.FAILING, failing_s)), NOW), NOW
        )
        assert new.phase is Phase.READY and bool(new.reason) is says


def test_a_node_that_lets_nobody_in_is_told_in_its_own_words() -> None:
    running = JobStatus(State.RUNNING, "RUNNING")
    refused = Observed(
        running, health=HealthReport(HealthStatus.FAILING, 30.0, unreachable_reason="node7 says no"), progress="loading"
    )
    for phase in (Phase.STARTING, Phase.READY):
        record = in_phase(phase)
        new = apply(record, decide(record, refused, NOW), NOW)
        assert (new.phase, new.reason) == (phase, "node7 says no")


# endings


@pytest.mark.parametrize(
    ("state", "word", "note", "stop", "ending", "words"),
    [
        (State.CANCELLED, "CANCELLED by 2001", None, True, Ending.CANCELLED, "as asked"),
        (State.CANCELLED, "CANCELLED by 0", None, False, Ending.CANCELLED, "cancelled by somebody"),
        (State.OUT_OF_MEMORY, "OUT_OF_MEMORY", "vllm_exited", False, Ending.FAILED, "240 GiB"),
        (State.NODE_FAIL, "NODE_FAIL", "vllm_exited", True, Ending.FAILED, "node1 failed"),
        (State.PREEMPTED, "PREEMPTED", "stopped", False, Ending.PREEMPTED, "took the node back"),
        (State.TIMEOUT, "TIMEOUT", None, False, Ending.TIMED_OUT, "06:00:00"),
        (State.COMPLETED, "COMPLETED", "walltime", False, Ending.TIMED_OUT, "said so"),
        (State.COMPLETED, "COMPLETED", "idle", False, Ending.IDLE, "said so"),
        (State.FAILED, "FAILED", "refused", False, Ending.FAILED, "said so"),
        (State.FAILED, "FAILED", None, False, Ending.FAILED, "bouchet logs aa"),
        (None, "", None, False, Ending.FAILED, "no longer knows job 7"),
        (None, "", "idle", False, Ending.IDLE, "said so"),
    ],
)
def test_how_it_ended(state: State | None, word: str, note: str | None, stop: bool, ending: Ending, words: str) -> None:
    record = in_phase(Phase.READY, stop=stop)
    assert record.job is not None
    says = JobStatus(state, word, node="node1", exit_code="1:0") if state else None
    written = EndFile.model_validate({"job_name": "x", "kind": note, "sentence": "said so"}) if note else None
    found, sentence = classify_ending(record, record.job, says, written)
    assert found is ending and words in sentence


def test_after_an_idle_end_people_know_how_soon_it_is_back() -> None:
    record = in_phase(Phase.READY)
    assert record.job is not None
    note = EndFile.model_validate({"job_name": "x", "kind": "idle", "sentence": "idle for 45 min"})
    times = {"queue": 900.0, "image": 2.0, "boot": 20.4, "load": 90.0, "compile": 30.0, "ready": 1042.4}
    _, unmeasured = classify_ending(record, record.job, None, note)
    _, measured = classify_ending(record, record.job.model_copy(update={"times": times}), None, note)
    assert unmeasured == f"idle for 45 min; `bouchet launch {record.model}` brings it back"
    assert measured == f"{unmeasured} in about 142 s (warm)"


@pytest.mark.parametrize(
    ("exit_code", "note", "words"),
    [
        ("73:0", None, "its files in /data/logs could not be written from node1"),
        ("0:53", None, "Slurm could not open its log in /data/logs on node1"),
        ("73:0", "refused", "said so"),
        ("1:0", None, "exit code 1:0"),
    ],
)
def test_a_job_that_could_not_write_is_understood_by_its_exit_status(
    exit_code: str, note: str | None, words: str
) -> None:
    record = in_phase(Phase.STARTING)
    assert record.job is not None
    job = record.job.model_copy(update={"log": "/data/logs/7.log"})
    written = EndFile.model_validate({"job_name": "x", "kind": note, "sentence": "said so"}) if note else None
    found, sentence = classify_ending(
        record, job, JobStatus(State.FAILED, "FAILED", node="node1", exit_code=exit_code), written
    )
    assert found is Ending.FAILED and words in sentence


@pytest.mark.parametrize(("after_s", "says"), [(5, False), (60, True)])
def test_a_node_that_does_not_clean_up_is_named_after_a_while(after_s: int, says: bool) -> None:
    record = in_phase(Phase.DRAINING, stop=True)
    slurm = JobStatus(State.COMPLETING, "COMPLETING", node="node1")
    decision = decide(record, Observed(slurm), LONG_AGO + timedelta(seconds=after_s))
    assert decision.phase is None, "it has not ended"
    assert ("still cleaning up after it on node1" in (decision.reason or "")) is says


# words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "ahead of it"),
        ("Resources", "it is next"),
        ("QOSMaxJobsPerUserLimit", "as many jobs"),
        ("QOSMaxGRESPerUser", "limit of GPUs"),
        ("MaxGRESPerAccount", "your group"),
        ("QOSMaxCpuPerUserLimit", "limit of CPUs"),
        ("QOSMaxMemoryPerUser", "limit of memory"),
        ("AssocGrpGRES", "limit of GPUs"),
        ("AssocGrpCpuLimit", "limit of CPUs"),
        ("AssocGrpCPUMinutesLimit", "computing time"),
        ("AssocMaxJobsLimit", "as many jobs"),
        ("QOSGrpNodeLimit", "limit of nodes"),
        ("ReqNodeNotAvail, Reserved for maintenance", "maintenance window"),
        ("ReqNodeNotAvail, UnavailableNodes:node1", "down, drained or reserved"),
        ("(Dependency)", "another job"),
        ("BeginTime", "earliest start"),
        ("SomethingNew", "waiting in the queue (SomethingNew)"),
        ("", "waiting in the queue"),
    ],
)
def test_pending_reasons_in_words(reason: str, words: str) -> None:
    assert words in describe_pending_reason(reason)


def test_every_reason_keeps_slurms_word_for_whoever_asks_the_site() -> None:
    for word in set(REASONS) - {"None"}:
        assert describe_pending_reason(word).endswith(f"({word})")


# a progress bar rewrites its line
SHARDS = "".join(f"Loading safetensors checkpoint shards: {25 * n}% Completed | {n}/4 [00:01<00:03]\r" for n in (1, 2))


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ("noise\n", ""),
        ("bouchet: checking the image\n", "checking the image"),
        (SHARDS, "loading weights, 2 of 4 files"),
        ("INFO [x.py:1] Loading weights took 12.30 seconds\n", "weights loaded in 12 s"),
        ("INFO [x.py:1] Model loading took 61.2 GiB memory and 80.1 seconds\n", "weights loaded (61.2 GiB)"),
        ("INFO Dynamo bytecode transform time: 5.1 s\n", "compiling"),
        ("Capturing CUDA graphs (decode, PIECEWISE):  40%|####   | 20/51 [00:02<00:03]", "capturing graphs, 20 of 51"),
        ("INFO Graph capturing finished in 20 secs\nINFO GPU KV cache size: 1 tokens\n", "laying out the KV cache"),
        ("INFO:     Application startup complete.\nINFO: 1.2.3.4 GET /v1/models 200\n", "server up"),
    ],
)  # fmt: skip
def test_progress_from_the_log(log: str, words: str) -> None:
    assert parse_progress(log) == words


def test_gpus_driver_and_torch_come_onto_the_record() -> None:
    ran = {"gpus": ("NVIDIA H200",), "driver": "580.95.05", "torch": "2.13.0"}
    observed = Observed(JobStatus(State.RUNNING, "RUNNING"), connection=CONNECTION.model_copy(update=ran))
    record = in_phase(Phase.STARTING)
    job = apply(record, decide(record, observed, NOW), NOW).job
    assert job is not None
    assert (job.gpus, job.driver, job.torch_version) == (("NVIDIA H200",), "580.95.05", "2.13.0")
