"""Where the time of a start went."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Job, Phase
from bouchet_worker.reconcile.startup import READY, STEPS, parse_engine_times, startup_times
from hypothesis import given
from hypothesis import strategies as st

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
# vLLM 0.32 on one CPU, as the demo's job prints it
LOG_32 = """\
bouchet: checking the image
bouchet: starting the container
(EngineCore pid=249) INFO 11-22 12:35:26 [base_loader.py:82] Initializing model took 0.820857 seconds
(EngineCore pid=249) INFO 11-22 12:35:28 [default_loader.py:501] Loading weights took 1.36 seconds
(EngineCore pid=249) INFO 11-22 12:35:31 [core.py:402] init engine (profile, create kv cache, warmup model) took 1.01 s
"""
# 0.19 on two GPUs: two workers load at the same time
LOG_19 = """\
bouchet: starting the container
(Worker_TP0 pid=1) INFO 11-22 12:00:00 [gpu_model_runner.py:2602] Model loading took 61.2 GiB memory and 80.12 seconds
(Worker_TP1 pid=2) INFO 11-22 12:00:01 [gpu_model_runner.py:2602] Model loading took 61.2 GiB memory and 81.5 seconds
(EngineCore_DP0 pid=3) INFO 11-22 12:01:00 [core.py:210] init engine (profile, create kv cache, warmup model) took \
45.25 seconds
"""


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
def test_vllms_own_words_of_the_newest_run(log: str, times: dict[str, float]) -> None:
    assert parse_engine_times(log) == times


def job(times: dict[str, float], queued_s: float = 40.0) -> Job:
    since = {Phase.QUEUED: START - timedelta(seconds=queued_s), Phase.STARTING: START}
    return Job(name="j", slot=0, since=since, times=times)


def test_the_parts_add_up_to_the_whole() -> None:
    times = startup_times(
        job({"queue": 12.0, "image": 3.0}), {"load": 80.0, "compile": 20.0}, START + timedelta(seconds=150)
    )
    assert times == {"queue": 12.0, "image": 3.0, "boot": 47.0, "load": 80.0, "compile": 20.0, "ready": 162.0}


def test_without_slurms_and_vllms_words_our_own_clock_has_to_do() -> None:
    assert startup_times(job({}), {}, START + timedelta(seconds=90)) == {"queue": 40.0, "boot": 90.0, "ready": 130.0}


def test_of_a_job_found_late_only_what_it_says_itself_is_told() -> None:
    began = START - timedelta(minutes=20)
    assert startup_times(job({"image": 3.0}), {"load": 8.0}, START, began) == {"image": 3.0, "load": 8.0}
    assert "ready" in startup_times(job({}), {}, START, START - timedelta(seconds=2))


@given(
    st.dictionaries(st.sampled_from(["queue", "image"]), st.floats(0, 1e6)),
    st.dictionaries(st.sampled_from(["load", "compile"]), st.floats(0, 1e6)),
    st.floats(0, 1e6),
)
def test_no_step_is_negative_and_ready_is_their_sum(
    times: dict[str, float], took: dict[str, float], seconds: float
) -> None:
    found = startup_times(job(times), took, START + timedelta(seconds=seconds))
    assert all(value >= 0 for value in found.values())
    assert [step for step in found if step != READY] == [step for step in STEPS if step in found]
    assert found[READY] == pytest.approx(sum(v for step, v in found.items() if step != READY), abs=0.1)
