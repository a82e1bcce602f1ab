"""How far a start is, and how long its steps took."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Job, Phase
from bouchet_worker.reconcile.startup import (
    IMPORTING,
    READY,
    STEPS,
    all_steps,
    latest_progress,
    parse_engine_times,
    parse_progress,
    parse_steps,
    startup_times,
)
from hypothesis import given
from hypothesis import strategies as st

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
# vLLM 0.32 on one CPU, as the demo's job prints it
LOG_32 = """\
bouchet: checking the image
bouchet: starting the container
(APIServer pid=1) INFO 11-22 12:35:10 [api_server.py:1971] vLLM API server version 0.32.0
(APIServer pid=1) WARNING 11-22 12:35:20 [vllm.py:1669] Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup.
(EngineCore pid=249) INFO 11-22 12:35:25 [cpu_model_runner.py:63] Starting to load model /models/demo...
(EngineCore pid=249) INFO 11-22 12:35:26 [base_loader.py:82] Initializing model took 0.820857 seconds
(EngineCore pid=249) INFO 11-22 12:35:28 [default_loader.py:501] Loading weights took 1.36 seconds
(EngineCore pid=249) INFO 11-22 12:35:29 [kv_cache_utils.py:1307] GPU KV cache size: 11,648 tokens
(EngineCore pid=249) INFO 11-22 12:35:30 [cpu_model_runner.py:106] Warming up model for the compilation...
(EngineCore pid=249) INFO 11-22 12:35:31 [cpu_model_runner.py:110] Warming up done.
(EngineCore pid=249) INFO 11-22 12:35:31 [core.py:402] init engine (profile, create kv cache, warmup model) took 1.01 s
(APIServer pid=1) INFO 11-22 12:35:32 [api_server.py:1351] Starting vLLM API server 0 on http://127.0.0.1:20001
(APIServer pid=1) INFO:     Waiting for application startup.
(APIServer pid=1) INFO:     Application startup complete.
"""  # noqa: E501
# 0.19 on two GPUs: two workers load at the same time
LOG_19 = """\
bouchet: starting the container
(Worker_TP0 pid=1) INFO 11-22 12:00:00 [gpu_model_runner.py:2602] Model loading took 61.2 GiB memory and 80.12 seconds
(Worker_TP1 pid=2) INFO 11-22 12:00:01 [gpu_model_runner.py:2602] Model loading took 61.2 GiB memory and 81.5 seconds
(EngineCore_DP0 pid=3) INFO 11-22 12:01:00 [core.py:210] init engine (profile, create kv cache, warmup model) took \
45.25 seconds
"""
# a progress bar rewrites its line
SHARDS = "".join(f"Loading safetensors checkpoint shards: {25 * n}% Completed | {n}/4 [00:01<00:03]\r" for n in (1, 2))
JIT_WARMUP = "WARNING [vllm.py:1669] Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup.\n"


@pytest.mark.parametrize(
    ("log", "progress"),
    [
        ("", ""),
        ("noise\n", ""),
        ("bouchet: checking the image\n", "checking the image"),
        (SHARDS, "loading weights, 2 of 4 files"),
        ("INFO [x.py:1] Loading weights took 12.30 seconds\n", "weights loaded in 12 s"),
        ("INFO [x.py:1] Model loading took 61.2 GiB memory and 80.1 seconds\n", "weights loaded (61.2 GiB)"),
        ("INFO Dynamo bytecode transform time: 5.1 s\n", "compiling"),
        (
            "Capturing CUDA graphs (decode, PIECEWISE):  40%|####   | 20/51 [00:02<00:03]",
            "capturing CUDA graphs, 20 of 51",
        ),
        ("INFO GPU KV cache size: 1 tokens\nINFO Graph capturing finished in 20 secs\n", "CUDA graphs captured"),
        ("INFO:     Application startup complete.\nINFO: 1.2.3.4 GET /v1/models 200\n", "server started"),
    ],
)
def test_parse_progress_finds_step_of_line(log: str, progress: str) -> None:
    assert parse_progress(log) == progress


@pytest.mark.parametrize(
    ("log", "progress"),
    [
        (JIT_WARMUP, ""),
        ("INFO Resolved architecture: Qwen3ForCausalLM\n" + JIT_WARMUP, "vLLM is starting"),
        ("init engine (profile, create kv cache, warmup model) took 1.01 s\n", "engine ready, starting the server"),
    ],
)
def test_parse_progress_ignores_lines_that_only_mention_warmup(log: str, progress: str) -> None:
    assert parse_progress(log) == progress


def test_parse_progress_of_growing_log_never_goes_back() -> None:
    lines = LOG_32.splitlines(keepends=True)
    seen = [parse_progress("".join(lines[: end + 1])) for end in range(len(lines))]
    assert list(dict.fromkeys(seen)) == [
        "checking the image",
        IMPORTING,
        "vLLM is starting",
        "loading weights",
        "weights loaded in 1 s",
        "allocating the KV cache",
        "warming up",
        "engine ready, starting the server",
        "starting the server",
        "server started",
    ]


def test_parse_progress_starts_over_when_the_job_script_starts_vllm_again() -> None:
    again = LOG_32 + "bouchet: starting the container\n"
    assert parse_progress(again) == IMPORTING
    assert parse_progress(again + "INFO Starting to load model /m...\n") == "loading weights"


STEP_NAMES = (
    "checking the image", IMPORTING, "vLLM is starting", "loading weights", "weights loaded", "allocating the KV cache",
    "warming up", "engine ready", "starting the server", "server started",
)  # fmt: skip


def test_parse_steps_lists_every_step_once_per_start() -> None:
    assert parse_steps(LOG_32) == STEP_NAMES
    assert parse_steps(LOG_32 + LOG_32) == (*STEP_NAMES, *STEP_NAMES)
    assert parse_steps(SHARDS + JIT_WARMUP) == ("loading weights",) and parse_steps("") == ()


@given(st.lists(st.integers(0, len(LOG_32)), max_size=6))
def test_all_steps_does_not_depend_on_how_often_the_log_is_read(ends: list[int]) -> None:
    known: tuple[str, ...] = ()
    for end in [*sorted(ends), len(LOG_32)]:
        known = all_steps(known, parse_steps(LOG_32[: LOG_32.rfind("\n", 0, end) + 1]))
    assert known == STEP_NAMES


def test_all_steps_adds_those_of_a_cut_log() -> None:
    assert all_steps(("a", "b"), ("b", "c")) == ("a", "b", "c")
    assert all_steps(("a", "b"), ("d",)) == ("a", "b", "d")
    assert all_steps(("a",), ()) == ("a",)


@pytest.mark.parametrize(
    ("before", "now", "latest"),
    [
        ("", "", ""),
        ("compiling", "", "compiling"),
        ("compiling", "loading weights", "compiling"),
        ("loading weights", "weights loaded in 3 s", "weights loaded in 3 s"),
        ("server started", "checking the image", "checking the image"),
        ("checking the image", "vLLM is starting", "vLLM is starting"),
    ],
)
def test_latest_progress_keeps_the_later_step(before: str, now: str, latest: str) -> None:
    assert latest_progress(before, now) == latest


@pytest.mark.parametrize(
    ("log", "times"),
    [
        (LOG_32, {"load": 2.2, "compile": 1.0}),
        (LOG_19, {"load": 81.5, "compile": 45.2}),
        (LOG_19 + LOG_32, {"load": 2.2, "compile": 1.0}),
        (LOG_19 + "bouchet: starting the container\n", {}),
        ("", {}),
    ],
)
def test_parse_engine_times_reads_newest_run(log: str, times: dict[str, float]) -> None:
    assert parse_engine_times(log) == times


def job(times: dict[str, float], queued_s: float = 40.0) -> Job:
    since = {Phase.QUEUED: START - timedelta(seconds=queued_s), Phase.STARTING: START}
    return Job(name="j", slot=0, since=since, times=times)


def test_startup_times_attribute_the_rest_to_boot() -> None:
    known = job({"queue": 12.0, "image": 3.0})
    times = startup_times(known, {"load": 80.0, "compile": 20.0}, START + timedelta(seconds=150))
    assert times == {"queue": 12.0, "image": 3.0, "boot": 47.0, "load": 80.0, "compile": 20.0, "ready": 162.0}


def test_startup_times_without_measurements_use_own_clock() -> None:
    times = startup_times(job({}), {}, START + timedelta(seconds=90))
    assert times == {"queue": 40.0, "boot": 90.0, "ready": 130.0}


def test_startup_times_of_late_discovered_job_have_no_sum() -> None:
    late = START - timedelta(minutes=20)
    assert startup_times(job({"image": 3.0}), {"load": 8.0}, START, late) == {"image": 3.0, "load": 8.0}
    assert "ready" in startup_times(job({}), {}, START, START - timedelta(seconds=2))


@given(
    st.dictionaries(st.sampled_from(["queue", "image"]), st.floats(0, 1e6)),
    st.dictionaries(st.sampled_from(["load", "compile"]), st.floats(0, 1e6)),
    st.floats(0, 1e6),
)
def test_startup_times_are_never_negative_and_add_up(
    times: dict[str, float], measured: dict[str, float], seconds: float
) -> None:
    found = startup_times(job(times), measured, START + timedelta(seconds=seconds))
    assert all(value >= 0 for value in found.values())
    assert [step for step in found if step != READY] == [step for step in STEPS if step in found]
    assert found[READY] == pytest.approx(sum(v for step, v in found.items() if step != READY), abs=0.1)
