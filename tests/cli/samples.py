"""Records as the API returns them, for tests without an API."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from bouchet_cli.client.deployments import DeploymentInfo

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TIMES = {"queue": 30.0, "image": 0.0, "boot": 60.0, "load": 8.0, "compile": 2.0, "ready": 100.0}
SCRATCH = "/tmp/bouchet-7-Ab"
CONTAINER = (
    *("apptainer", "exec", "--nv", "--bind", f"{SCRATCH}/tmp:/tmp", "--bind", f"{SCRATCH}:/bouchet/job"),
    *("/images/cuda13-0.32.0.sif", "/bin/sh", "-c", 'exec "$@"', "vllm-serve", "vllm", "serve", "/m", "--x", "it's"),
    *("--port", "8123"),
)
JOB: dict[str, Any] = {
    "slurm_id": 17,
    "slurm_state": "RUNNING",
    "node": "node2",
    "window": 65536,
    "image": "cpu.sif",
    "image_sha256": "ab" * 32,
    "model_revision": "c0ffee" * 4,
    "vllm_version": "0.32.0",
    "torch_version": "2.13.0",
    "gpus": ["NVIDIA H200", "NVIDIA H200"],
    "driver": "580.95.05",
    "since": {"starting": (NOW - timedelta(minutes=10)).isoformat()},
    "times": TIMES,
    "memory": {"note": "about 7.5 conversations fit"},
    "smoke": {
        "chat": {"result": "ok", "message": "2 tokens"},
        "tools": {"result": "failed", "message": "the call was plain text"},
        "thinking": {"result": "not_tried", "message": "not a reasoning model"},
    },
    "placement": {
        "partition": "gpu_devel", "gpus": 1, "gpu_type": "h200", "nodes": 1, "cpus": 6, "memory_gib": 240,
        "walltime_s": 3600, "why": "gpu_devel is the first that takes 1 GPU",
    },
    "submission": ["sbatch", "--parsable", "--output=~/logs/%j.log", "x.sbatch"],
    "software": {"container": list(CONTAINER), "environment": {"A": "b c"}, "cuda": "13.0", "recipe_sha256": "cd" * 32},
    "weights": {"digest": "ef" * 32, "how": "manifest", "files": 9, "bytes": 61_000_000_000},
    "kept_until": (NOW + timedelta(days=9)).isoformat(),
}  # fmt: skip
PREVIEW: dict[str, Any] = {
    "placement": {
        "partition": "gpu_devel", "gpus": 1, "gpu_type": "h200", "nodes": 1, "cpus": 6, "memory_gib": 240,
        "walltime_s": 21_600, "why": "it is the first",
    },
    "image": "cpu.sif",
    "window": 4096,
    "memory": {
        "gpu_gib": 139.8, "share": 0.92, "weights_gib": 75.06, "work_gib": 4.5, "cache_gib": None,
        "token_bytes": 24_576, "window_gib": 6.25, "window": 4096, "longest": 262_144, "conversations": 7.5,
        "source": "the model files", "note": "about 7.5 conversations fit",
    },
    "folder": "~/b/jobs/bouchet-preview-1",
    "script": "#!/bin/bash\necho one\n",
    "command": ["sbatch", "--parsable", "~/b/remote/x/vllm-serve.sbatch", "~/b/jobs/bouchet-preview-1", "~/b/remote/x"],
    "files": {"spec.json": '{"a": 1}\n', "setup.sh": ""},
}  # fmt: skip
IMAGES: list[dict[str, Any]] = [
    {
        "pin": "cpu-0.32.0", "state": "ready", "known": True, "in_site": True, "is_default": True, "bytes": 662331392,
        "sha256": "34e8a3c3" + "0" * 56, "vllm": "0.32.0+cpu", "torch": "2.13.0+cpu", "deployments": ["mine"],
        "oci": "docker://base",
    },
    {"pin": "cuda13-0.32.0", "state": "outdated", "known": False, "cuda": "13.0", "min_driver": "580", "models": ["m"]},
]  # fmt: skip
USAGE: dict[str, Any] = {
    "name": "alice",
    "requests": 1234,
    "input_tokens": 100,
    "cached_tokens": 900,
    "output_tokens": 50,
    "first_token_ms": 340,
    "tokens_per_second": 41.5,
    "errors": 3,
    "errors_by_kind": {"timeout": 1, "rate_limit_exceeded": 2},
}


def deployment(identity: str, phase: str = "ready", **fields: Any) -> DeploymentInfo:
    """Return a deployment, by default ready with a window of 262,144 tokens."""
    return DeploymentInfo.from_json(_raw(identity, phase, **fields))


def deployment_json(identity: str) -> bytes:
    """Return the JSON of a ready deployment."""
    return json.dumps(_raw(identity)).encode()


def _raw(identity: str, phase: str = "ready", **fields: Any) -> dict[str, Any]:
    return {
        "id": identity,
        "model": f"Org/{identity}",
        "names": [f"bouchet-{identity}", f"Org/{identity}"],
        "phase": phase,
        "created_at": NOW.isoformat(),
        "updated_at": NOW.isoformat(),
        "jobs": [{"window": 262144}],
        **fields,
    }
