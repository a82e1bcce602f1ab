"""Samples of the messages of reconcile/, memory/ and doctor/, for the golden file of the worker's messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from bouchet_core.config.catalog import Parallel
from bouchet_core.config.site import Site
from bouchet_core.deployments import Phase
from bouchet_core.errors import LaunchRefusedError
from bouchet_worker.doctor.checks import clock_check, driver_checks, image_checks, image_path, storage_checks
from bouchet_worker.memory.estimate import ModelDescription, estimate_memory
from bouchet_worker.memory.vllm_args import GIB, VllmArgs
from bouchet_worker.reconcile.decide import apply, decide
from bouchet_worker.reconcile.endings import classify_ending
from bouchet_worker.reconcile.observation import EndFile, HealthReport, HealthStatus, JobStatus, Observed
from bouchet_worker.reconcile.smoke_test import ExpectedModel, run_smoke_test
from bouchet_worker.reconcile.vllm_errors import advice_for_cause
from bouchet_worker.slurm.states import State

from tests.fakes.vllm.worker_server import PROMPT_TOKENS

from .doctor.cluster_output import probe_result
from .doctor.test_partitions import checks_by_name
from .memory.test_estimate import H200, linear_layers, model
from .reconcile.test_decide import NOW, record_in
from .reconcile.test_smoke_test import serving

ERROR_LINES = (
    "ValueError: ... the estimated maximum model length is 67808. Try increasing `gpu_memory_utilization`",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB.",
    "ValueError: Free memory on device cuda:0 (3.2/139.8 GiB) is less than desired GPU memory utilization",
    "RuntimeError: The NVIDIA driver on your system is too old (found version 12040).",
    "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    "RuntimeError: No CUDA GPUs are available",
    "OSError: [Errno 28] No space left on device",
    "OSError: [Errno 98] Address already in use",
    "api_server.py: error: unrecognized arguments: --moon-phase full",
    "TypeError: --tool-call-parser llama3_json cannot be used with the tokenizer of '/m': no token",
    "ValueError: Model architectures ['NewForCausalLM'] are not supported for now.",
    "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
    "FATAL:   container creation failed: image driver mount failure",
    "MemoryError: Cannot allocate memory",
    "Engine core proc EngineCore died unexpectedly, shutting down client.",
)
DEVIATIONS: tuple[dict[str, object], ...] = (
    {},
    {"chat_status": 400},
    {"stream": "early"},
    {"stream": "error"},
    {"call": "text"},
    {"call": "prose"},
    {"call": "broken"},
    {"call": "long"},
    {"call": "refused"},
    {"counted": 4 * PROMPT_TOKENS},
    {"window": 2048},
    {"thoughts": "text"},
)


def decision_messages() -> Iterator[str]:
    """Yield the reasons of live deployments."""
    running = JobStatus(State.RUNNING, "RUNNING", node="node1")
    failing = HealthReport(HealthStatus.FAILING, 30.0)
    cases: tuple[tuple[Phase, Observed], ...] = (
        (Phase.QUEUED, Observed(running)),
        (Phase.READY, Observed(JobStatus(State.REQUEUED, "REQUEUED", "BeginTime"))),
        (Phase.READY, Observed(JobStatus(State.SUSPENDED, "SUSPENDED"))),
        (Phase.STARTING, Observed(running, health=HealthReport(HealthStatus.HEALTHY), smoke_pending=True)),
        (Phase.READY, Observed(running, health=HealthReport(HealthStatus.DRAINING))),
        (Phase.READY, Observed(running, health=failing)),
        (Phase.READY, Observed(running, health=replace(failing, wrong_server=True))),
        (Phase.DRAINING, Observed(JobStatus(State.COMPLETING, "COMPLETING"))),
    )
    for phase, observed in cases:
        record = record_in(phase)
        yield apply(record, decide(record, observed, NOW), NOW).reason


def ending_messages() -> Iterator[str]:
    """Yield ends that depend on more than Slurm's state, then the advice for error lines of vLLM."""
    record = record_in(Phase.READY, changes={"log": "/data/logs/7.log", "times": {"load": 90.0, "ready": 90.0}})
    assert record.job is not None
    idle = EndFile(job_name="x", kind="idle", sentence="idle for 45 min")
    killed = EndFile(job_name="x", kind="vllm_exited", sentence="vLLM ended with status 137", exit_status=137)
    yield classify_ending(record, record.job, None, None)[1]
    yield classify_ending(record, record.job, None, idle)[1]
    yield classify_ending(record, record.job, None, killed)[1]
    for exit_code in ("73:0", "0:53", "1:0"):
        status = JobStatus(State.FAILED, "FAILED", node="node1", exit_code=exit_code)
        yield classify_ending(record, record.job, status, None)[1]
    for line in ERROR_LINES:
        yield f"{line}; {advice_for_cause(line)}"


def smoke_test_messages() -> Iterator[str]:
    """Yield the checks of smoke tests: all of an expected model, then those that change with a deviation."""
    expected = ExpectedModel("bouchet-m", 4096, "off", "hermes", "qwen3")
    passed: dict[str, Any] = {}
    for deviation in DEVIATIONS:
        with serving(**deviation) as (http, _):
            smoke = run_smoke_test(http, expected, lambda: True)
        checks = {name: check for name, check in smoke if name != "took_s"}
        yield from (
            f"{name} {check.result}: {check.message}" for name, check in checks.items() if check != passed.get(name)
        )
        passed = passed or checks


def memory_messages() -> Iterator[str]:
    """Yield refusals and notes of the memory estimate."""
    args = VllmArgs(window=8192, parallel=Parallel())
    long = replace(args, window=262_144, parallel=Parallel(data=8, experts=True))
    cpu = replace(args, cache_bytes=GIB // 8, cpu=True)
    refused: tuple[tuple[ModelDescription, VllmArgs, float | None, float | None], ...] = (
        (model("Qwen2.5-72B-Instruct", 136), args, H200, None),
        (linear_layers("Qwen3-Coder-480B-A35B-Instruct-FP8", "F8_E4M3", 67.5), long, 135.0, None),
        (model("Qwen3-32B", 61), replace(args, window=40961), H200, None),
        (ModelDescription("m", catalog_gib=9000), args, H200, None),
        (model("SmolLM2-135M", 0.3), cpu, None, 6),
        (model("SmolLM2-135M", 9), cpu, None, 6),
    )
    for description, launch, gpu_gib, host_gib in refused:
        with pytest.raises(LaunchRefusedError) as caught:
            estimate_memory(description, launch, gpu_gib, host_gib)
        yield str(caught.value)
    for description, gpu_gib in (
        (model("Qwen3-32B", 61), H200),
        (model("Qwen2.5-72B-Instruct", 136), None),
        (model("Qwen2.5-72B-Instruct", None), H200),
        (ModelDescription("m", catalog_gib=75), H200),
        (ModelDescription("m"), None),
    ):
        yield estimate_memory(description, args, gpu_gib).note


def doctor_messages(demo_site: Site, bouchet_site: Site) -> Iterator[str]:
    """Yield the checks of a broken cluster, each with its fix."""
    probe = probe_result(bouchet_site, quota="project 950 1000 95%", time=90.0)
    free = {"exists": True, "writable": True, "nearest": "/", "free": 1 << 20, "total": 1000 << 30}
    probe["directories"] = {
        bouchet_site.root: free,
        bouchet_site.models_dir: {**free, "exists": False, "writable": False, "nearest": "/gpfs"},
        bouchet_site.images_dir: {**free, "exists": False, "free": 900 << 30},
        bouchet_site.scratch_dir: {**free, "writable": False},
    }
    first, *others = [image_path(bouchet_site, image) for image in bouchet_site.images]
    probe["images"] = {
        first: {**probe["images"][first], "computed": "b" * 64},
        **{path: {"exists": False} for path in others},
    }
    checks = [
        *storage_checks(bouchet_site, probe),
        storage_checks(demo_site, probe_result(demo_site))[-1],
        clock_check(probe, 0.0),
        *image_checks(bouchet_site, probe),
        *driver_checks(bouchet_site, "575.57.08", "job 7"),
        *driver_checks(bouchet_site, None, ""),
        *checks_by_name(demo_site, "", "", "").values(),
    ]
    for check in checks:
        yield f"{check.name}: {check.verdict}: {check.message}" + (f" -> {check.fix}" if check.fix else "")
