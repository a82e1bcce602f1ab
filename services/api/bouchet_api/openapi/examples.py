"""Examples of request bodies and records for /openapi.json."""

from __future__ import annotations

from typing import Any

LAUNCH: dict[str, Any] = {
    "defaults": {"summary": "with the catalog's defaults", "value": {"model": "Qwen/Qwen3-Coder-Next-FP8"}},
    "explicit": {
        "summary": "with all resources",
        "value": {
            "model": "bouchet-qwen3-32b",
            "name": "mine",
            "gpus": 1,
            "time": "06:00:00",
            "partition": "gpu_h200",
            "quant": "fp8",
            "max_len": 40960,
            "serve_as": ["haiku"],
        },
    },
    "relaunch": {
        "summary": "with the image, revision, arguments and resources of an earlier deployment",
        "value": {"like": "x7k2m4qfh3ab", "name": "again", "time": "02:00:00"},
    },
}

_ENTRY: dict[str, Any] = {
    "alias": "bouchet-qwen3-32b",
    "description": "32.8B added from the hub",
    "gpus": 1,
    "window": 40960,
    "tool_parser": "hermes",
    "reasoning_parser": "qwen3",
    "thinking": "off",
    "max_output": 10240,
    "weights_gib": 61.0,
}
# a catalog entry, its lines in a file, and the file
CATALOG_LINES: dict[str, Any] = {
    "entry": _ENTRY,
    "block": "  Qwen/Qwen3-32B:\n    alias: bouchet-qwen3-32b\n    window: 40960\n",
    "file": "bouchet.added.yaml",
}
HUB_REQUEST: dict[str, Any] = {"newest": {"value": {"model": "Qwen/Qwen3-32B"}}}
HUB_MODEL: dict[str, Any] = {
    "model": "Qwen/Qwen3-32B",
    "commit": "9216db5781bf21249d130ec9da846c4624c16137",
    "gated": False,
    "bytes": 65_540_000_000,
    "files": 25,
    "architecture": "Qwen3ForCausalLM",
    "parameters": 32_762_123_264,
    "fits": [
        {"gpu_type": "h200", "gpus": 1, "quant": "none", "fits": True, "window": 40960, "conversations": 6.1,
         "weights_gib": 61.0},
    ],
    "notes": [],
}  # fmt: skip

POLICY: dict[str, Any] = {
    "two more days": {"value": {"keep": "2d"}},
    "office hours": {
        "summary": "ready at 08:30, parked at 18:00, at most 40 GPU hours a week",
        "value": {"hours": "mon-fri 08:30-18:00", "budget": "40h/week", "time_zone": "America/New_York"},
    },
    "resume": {"summary": "nothing changes; a paused deployment goes on", "value": {}},
}

DEPLOYMENT: dict[str, Any] = {
    "id": "x7k2m4qfh3ab",
    "model": "Qwen/Qwen3-32B",
    "names": ["bouchet-qwen3-32b", "Qwen/Qwen3-32B"],
    "request": {"model": "Qwen/Qwen3-32B", "gpus": 1, "time": "06:00:00"},
    "traits": {"thinking": "off", "max_output": 8192, "tool_parser": "hermes", "reasoning_parser": "qwen3"},
    "phase": "ready",
    "ending": None,
    "reason": "ready without tools: tool call returned as plain text: parser 'hermes' does not match this model",
    "jobs": [
        {
            "name": "bouchet-x7k2m4qfh3ab-1",
            "slot": 0,
            "slurm_id": 4711,
            "phase": "ready",
            "image": "cuda13-0.32.0.sif",
            "image_sha256": "5f0c...",
            "model_revision": "9216db5781bf21249d130ec9da846c4624c16137",
            "weights": {"digest": "8ac1...", "how": "manifest", "files": 25, "bytes": 65_527_752_704, "folder": "..."},
            "smoke": {
                "chat": {"result": "ok", "message": "2 tokens"},
                "stream": {"result": "ok", "message": "6 events"},
                "tools": {
                    "result": "failed",
                    "message": "tool call returned as plain text: parser 'hermes' does not match this model",
                },
                "count": {"result": "ok", "message": "17 tokens, as in the usage"},
                "window": {"result": "ok", "message": "40960 tokens"},
                "thinking": {"result": "ok", "message": "no reasoning by default"},
                "took_s": 1.4,
            },
        }
    ],
    "created_at": "2026-11-22T12:00:00Z",
    "updated_at": "2026-11-22T12:00:04Z",
    "version": 3,
}

KEY_REQUEST: dict[str, Any] = {
    "with limits": {
        "value": {"name": "alice", "requests_per_minute": 60, "tokens_per_minute": 200_000, "expires_in": "30d"}
    },
    "without": {"value": {"name": "bob"}},
}

NEW_KEY: dict[str, Any] = {
    "name": "alice",
    "shown": "sk-bouchet-...x9Qa",
    "requests_per_minute": 60,
    "tokens_per_minute": 200_000,
    "created_at": "2026-11-22T12:00:00Z",
    "expires_at": "2026-12-22T12:00:00Z",
    "expired": False,
    "key": "sk-bouchet-...",
}

DOWNLOAD_REQUEST: dict[str, Any] = {
    "newest": {"summary": "the newest commit", "value": {"model": "Qwen/Qwen3-32B"}},
    "pinned": {"summary": "a branch, tag or commit", "value": {"model": "bouchet-qwen3-32b", "revision": "main"}},
}

DOWNLOAD: dict[str, Any] = {
    "id": "m2vq7xk4tcab",
    "model": "Qwen/Qwen3-32B",
    "revision": "main",
    "state": "running",
    "reason": "downloading",
    "commit": "9216db5781bf21249d130ec9da846c4624c16137",
    "bytes": 28_991_029_248,
    "total_bytes": 65_527_752_704,
    "files": 9,
    "total_files": 25,
    "rate": 412_090_368,
    "eta_s": 88,
    "job_name": "bouchet-download-Qwen--Qwen3-32B-m2vq7xk4tcab",
    "slurm_id": 4712,
    "created_at": "2026-11-22T12:00:00Z",
    "updated_at": "2026-11-22T12:01:12Z",
    "version": 40,
}

PROMPT_ANSWER: dict[str, Any] = {
    "Duo push": {"value": {"prompt_id": "3f9c", "responses": ["1"]}},
}

CHAT: dict[str, Any] = {
    "one question": {
        "value": {"model": "bouchet-qwen3-32b", "messages": [{"role": "user", "content": "Which model are you?"}]}
    },
}

SIGN_IN: dict[str, Any] = {
    "typed": {"value": {"key": "BOUCHET_ADMIN_KEY of .env"}},
    "one-time link": {"value": {"link": "0oyxEXAMPLEuT9"}},
}

TRUST: dict[str, Any] = {
    "compared": {
        "summary": "a key compared with the site's list",
        "value": {"fingerprint": "SHA256:uNiVztksCsDhcc0u9e8BrNtxfPWYnvQdsqMJ9VJ4Cdo"},
    },
}

FORGET: dict[str, Any] = {"host": {"value": {"place": "bouchet.ycrc.yale.edu"}}}

PREVIEW: dict[str, Any] = {
    "job_name": "bouchet-preview-1",
    "placement": {
        "partition": "gpu_devel",
        "gpus": 1,
        "gpu_type": "h200",
        "nodes": 1,
        "cpus": 6,
        "memory_gib": 240,
        "walltime_s": 21600,
        "why": "gpu_devel is the first partition that fits 1 GPU",
    },
    "image": "cuda13-0.32.0.sif",
    "window": 40960,
    "memory": {
        "gpu_gib": 139.8,
        "share": 0.92,
        "weights_gib": 31.72,
        "work_gib": 4.58,
        "cache_gib": 92.32,
        "token_bytes": 262144,
        "window_gib": 10.0,
        "window": 40960,
        "longest": 40960,
        "conversations": 9.23,
        "source": "the model on the cluster",
        "note": "about 9.2 conversations of the full window fit at once",
    },
    "cost": "6 h x 1 H200 = 1,800 SU",
    "folder": "~/project/bouchet-llm/jobs/bouchet-preview-1",
    "script": "#!/bin/bash\n...",
    "command": ["sbatch", "--parsable", "--partition=gpu_devel", "..."],
    "files": {"spec.json": "{...}", "vllm.args": "--served-model-name\n...", "setup.sh": ""},
}

ORPHANS: dict[str, Any] = {
    "orphans": [
        {
            "slurm_id": 4711,
            "name": "bouchet-x7k2m4qfh3ab-1",
            "state": "RUNNING",
            "partition": "gpu_h200",
            "node": "a1128u01n01",
            "model": "Qwen/Qwen3-32B",
            "names": ["bouchet-qwen3-32b", "Qwen/Qwen3-32B"],
            "owner": "another",
            "can_adopt": True,
            "note": "launched by another installation, which may still manage it",
        }
    ]
}

DOCTOR_REPORT: dict[str, Any] = {
    "version": "0.1.0",
    "checks": [
        {"area": "stack", "name": "redis", "verdict": "pass", "message": "reachable", "fix": ""},
        {
            "area": "partitions",
            "name": "gpu_h200",
            "verdict": "warn",
            "message": "max_walltime is 2-00:00:00, Slurm's is 1-00:00:00",
            "fix": "edit sites/bouchet.yaml",
        },
    ],
}

IMAGE_REQUEST: dict[str, Any] = {
    "build": {"summary": "from the network", "value": {"pin": "cuda13-0.32.0"}},
    "staged": {
        "summary": "from a folder on the cluster",
        "value": {"pin": "cuda13-0.32.0", "source": "~/project/staged/cuda13-0.32.0"},
    },
    "verify": {"summary": "hash an existing image", "value": {"pin": "cuda13-0.32.0", "action": "verify"}},
}

IMAGE_JOB: dict[str, Any] = {
    "id": "q2m4x7kfh3ab",
    "pin": "cuda13-0.32.0",
    "action": "build",
    "source": None,
    "rebuild": False,
    "force": False,
    "state": "running",
    "reason": "installing packages",
    "kind": "",
    "stage": "packages",
    "done": 73,
    "of": 198,
    "sha256": None,
    "bytes": None,
    "seconds": None,
    "current": False,
    "job_name": "bouchet-image-build-cuda13-0.32.0-q2m4x7kfh3ab",
    "slurm_id": 4711,
    "asked_at": "2026-11-22T12:00:01Z",
    "log": "~/project/bouchet-llm/logs/4711.log",
    "stop_requested_at": None,
    "created_at": "2026-11-22T12:00:00Z",
    "updated_at": "2026-11-22T12:02:10Z",
    "version": 9,
}

IMAGES: dict[str, Any] = {
    "images": [
        {
            "pin": "cuda13-0.32.0",
            "known": True,
            "state": "ready",
            "bytes": 9_100_000_000,
            "sha256": "34e8a3c307ba543f648f93bb72d975fbfd9f95a88cc7a817df9467e2d92e5b9d",
            "made_at": "2026-11-20T10:00:00Z",
            "vllm": "0.32.0",
            "torch": "2.13.0",
            "cuda": "13.0",
            "min_driver": "580",
            "oci": None,
            "oci_manifest": None,
            "commit": "54413218babb03581b5638c2df904534aa782f4c",
            "is_default": True,
            "in_site": True,
            "models": [],
            "deployments": ["bouchet-qwen3-32b"],
        }
    ],
    "free_bytes": 2_000_000_000_000,
    "problem": "",
}

REQUEST_SUMS: dict[str, Any] = {
    "name": "alice",
    "requests": 412,
    "input_tokens": 1_204_000,
    "cached_tokens": 38_110_000,
    "output_tokens": 260_400,
    "first_token_ms": 410,
    "tokens_per_second": 142.0,
    "errors": 2,
    "errors_by_kind": {"client_left": 2},
}

GPU_SUMS: dict[str, Any] = {
    "name": "Qwen/Qwen3-Coder-Next-FP8",
    "jobs": 3,
    "gpu_hours": 21.5,
    "starting_hours": 0.4,
    "serving_hours": 14.9,
    "idle_hours": 6.1,
    "draining_hours": 0.1,
    "queued_hours": 0.9,
    "charge": 6450.0,
    "charge_unit": "SU",
}

ACCOUNTING: dict[str, Any] = {
    "jobs": 3,
    "asked_at": "2026-11-29T03:00:00Z",
    "measured_gpu_hours": 21.5,
    "accounted_gpu_hours": 21.499,
    "difference_s": 3.0,
    "largest_difference_s": 1.6,
    "largest_job": "bouchet-qwen3-coder-next-x7k2m4qfh3ab",
}

JOB_DIFFERENCE: dict[str, Any] = {
    "job": "bouchet-qwen3-coder-next-x7k2m4qfh3ab",
    "slurm_id": 4711,
    "state": "COMPLETED",
    "runs": 1,
    "measured_s": 25_201.6,
    "accounted_s": 25_200.0,
    "asked_at": "2026-11-29T03:00:00Z",
}

REQUEST_LIST: dict[str, Any] = {
    "requests": [
        {
            "id": "5f0c1b7e9a2d4c6f8e01",
            "at": 1_796_000_000.0,
            "key": "alice",
            "model": "Qwen/Qwen3-Coder-Next-FP8",
            "deployment": "x7k2m4qfh3ab",
            "job": "bouchet-qwen3-coder-next-x7k2m4qfh3ab",
            "session": "a1f3c09b7e52",
            "endpoint": "/v1/messages",
            "request_class": "main",
            "agent": "",
            "client": "claude-code",
            "status": 200,
            "error": "",
            "input": 812,
            "cached": 24_100,
            "output": 640,
            "first_ms": 380,
            "generating_ms": 4_420,
        }
    ]
}

BUDGET_REPORT: dict[str, Any] = {
    "budget": "400 GPU hours a month",
    "period": "month",
    "unit": "GPU hours",
    "limit": 400.0,
    "used": 276.0,
}
BUDGET_REPORT |= {"left": 124.0, "ends_at": "2026-12-01T05:00:00Z"}
LEDGER_STATUS: dict[str, Any] = {
    "problem": "",
    "database": "/data/ledger.sqlite3",
    "waiting": 0,
    "lost": 0,
    "keep_days": 400,
}

_DAYS: dict[str, Any] = {"first": "2026-11-01", "last": "2026-11-30", "zone": "America/New_York"}
LEDGER_REPORT: dict[str, Any] = {"by": "key", **_DAYS, "lines": [REQUEST_SUMS], "total": REQUEST_SUMS}
GPU_REPORT: dict[str, Any] = {
    "by": "model", **_DAYS, "lines": [GPU_SUMS], "total": GPU_SUMS, "accounting": ACCOUNTING,
}  # fmt: skip
