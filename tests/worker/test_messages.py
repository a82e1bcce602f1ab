"""The worker's messages to users, compared with tests/contracts/golden/messages/worker.txt.

Run with UPDATE_GOLDEN=1 to write the file again after a message has changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from bouchet_core.batch_jobs import Download
from bouchet_core.config.site import Site
from bouchet_core.deployments import Placement
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.images import ImageJob
from bouchet_core.provenance import LaunchPins, Weights
from bouchet_worker.batch.download import DOWNLOADS
from bouchet_worker.batch.image import IMAGES
from bouchet_worker.batch.watch import END_REASONS, end_record
from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.checks import PinnedFiles, changed_arguments, check_model_present, find_changes
from bouchet_worker.launch.submit import cancel, submit
from bouchet_worker.reconcile.endings import SENTENCES
from bouchet_worker.slurm.error_messages import describe_refusal, explain_outage
from bouchet_worker.slurm.pending_reasons import REASONS, describe_pending_reason, suggest_earlier_start

from tests.fakes.slurm_gateway import FakeSlurm

from .cluster_messages import (
    decision_messages,
    doctor_messages,
    ending_messages,
    memory_messages,
    smoke_test_messages,
)
from .scenario import REPOSITORY, requested

GOLDEN = REPOSITORY / "tests" / "contracts" / "golden" / "messages" / "worker.txt"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PLACEMENT = Placement(partition="gpu_devel", gpus=2, gpu_type="h200", nodes=1, cpus=12, memory_gib=480, walltime_s=3600)
LIMITS = (
    "QOSMaxGRESPerUser",
    "AssocGrpGRES",
    "QOSGrpJobsLimit",
    "QOSMaxJobsPerUserLimit",
    "QOSMaxWallDurationPerJobLimit",
    "QOSMaxGRESPerJob",
    "QOSMinGRES",
    "AssocGrpCPUMinutesLimit",
    "QOSMaxSubmitJobPerUserLimit",
    "QOSMaxMemoryPerUser",
    "QOSMaxCpuPerUserLimit",
    "QOSMaxNodePerUserLimit",
    "ReqNodeNotAvail, Reserved for maintenance",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
    "launch_failed_requeued_held",
    "job_requeued_in_held_state",
    "Brand_New_Reason",
)
SBATCH_ERRORS = (
    "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
    "Invalid generic resource (gres) specification",
    "Requested node configuration is not available",
    "More processors requested than permitted",
    "Memory specification can not be satisfied",
    "Invalid feature specification",
    "Invalid qos specification",
    "Invalid account or account/partition combination specified",
    "invalid partition specified: nope",
    "User's group not permitted to use this partition",
    "Requested time limit is invalid (missing or exceeds some limit)",
    "Node count specification invalid",
    "Required partition not available (inactive or drain)",
    "QOSMaxGRESPerUser",
    "The moon is full",
    "",
)
PINS = LaunchPins(
    deployment="earlier",
    image="cpu-0.32.0",
    image_sha256="ab" * 32,
    vllm="0.32.0",
    model_revision="c0ffee",
    weights=Weights(digest="ef" * 32, how="manifest", files=9, bytes=10),
)


def test_messages_match_the_golden_file(
    context: WorkerContext, slurm: FakeSlurm, demo_site: Site, bouchet_site: Site
) -> None:
    sections = {
        "pending reasons": [describe_pending_reason(code) for code in (*REASONS, *LIMITS)],
        "earlier start": [suggest_earlier_start(code, PLACEMENT) for code in ("Priority", *LIMITS[:4])],
        "sbatch refused": [describe_refusal(f"sbatch: error: {error}\n" if error else "") for error in SBATCH_ERRORS],
        "Slurm does not answer": [
            explain_outage("squeue did not end within 20 s and was killed"),
            explain_outage("sacct did not end within 20 s and was killed"),
        ],
        "ends of jobs": list(SENTENCES.values()),
        "ends of batch jobs": list(batch_endings()),
        "launch": list(launch_messages(context, slurm)),
        "relaunch": list(relaunch_messages()),
        "live deployments": list(decision_messages()),
        "ends of jobs with a cause": list(ending_messages()),
        "smoke test": list(smoke_test_messages()),
        "memory": list(memory_messages()),
        "doctor": list(doctor_messages(demo_site, bouchet_site)),
    }
    text = "\n".join("\n".join([f"# {title}", *messages, ""]) for title, messages in sections.items())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def batch_endings() -> Iterator[str]:
    times = {"created_at": NOW, "updated_at": NOW}
    download = Download(id="abcdefghijkl", model="org/model", bytes=1, created_at=NOW, updated_at=NOW)
    image = ImageJob.model_validate({"id": "abcdefghijkl", "pin": "cpu-0.32.0", **times})
    for state in (*END_REASONS, "FAILED", ""):
        yield end_record(download, DOWNLOADS, None, state, NOW).reason
    yield end_record(download.asked_to_stop(NOW), DOWNLOADS, None, "", NOW).reason
    yield end_record(image, IMAGES, None, "NODE_FAIL", NOW).reason
    yield end_record(image.asked_to_stop(NOW), IMAGES, None, "", NOW).reason


def launch_messages(context: WorkerContext, slurm: FakeSlurm) -> Iterator[str]:
    model = "demo/scripted"
    ready = {"state": "ready", "bytes": 5, "total_bytes": 12}
    listings: tuple[dict[str, object], ...] = ({}, {model: {**ready, "state": "partial"}})
    for slurm.on_disk in listings:
        with pytest.raises(LaunchRefusedError) as caught:
            check_model_present(context, model)
        yield str(caught.value)
    slurm.on_disk = {model: ready}
    for kind in ("tunnel_down", "command_timeout"):
        identity = kind.replace("_", "-")
        context.store.create(requested(identity, context.now()))
        slurm.fault = lambda method, what, kind=kind: kind if what in ("squeue", "sbatch") else None  # type: ignore[misc]
        submit(context, identity)
        yield context.store.get(identity).reason
    slurm.fault = lambda method, what: "command_timeout" if what == "sbatch" else None
    submit(context, identity)
    yield context.store.get(identity).reason
    submit(context, identity)
    yield context.store.get(identity).reason
    slurm.fault = lambda method, what: "tunnel_down"
    cancel(context, identity)
    yield context.store.get(identity).reason


def relaunch_messages() -> Iterator[str]:
    image: dict[str, Any] = {"exists": True, "recorded": "ab" * 32}
    model: dict[str, Any] = {"revision": "c0ffee", "weights": {"how": "manifest", "digest": "ef" * 32}}
    for files in (
        PinnedFiles({"exists": False}, model),
        PinnedFiles({**image, "computed": "cd" * 32}, model),
        PinnedFiles(image, None),
        PinnedFiles(image, {**model, "revision": "badcafe"}),
        PinnedFiles(image, {**model, "weights": {"how": "manifest", "digest": "00" * 32}}),
    ):
        yield from find_changes(files, "org/model", PINS)
    yield changed_arguments(("--max-model-len", "9", "--old"), ("--max-model-len", "8"))
    yield changed_arguments(("--a", "--b"), ("--b", "--a"))
