"""Completes /openapi.json: error responses, examples and the ways to send the key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from bouchet_api.auth import OPEN_PATHS, SESSION_PATH
from bouchet_api.problems import MEDIA_TYPE, TITLES, Problem

from . import examples
from .errors import ERROR_KINDS, problem_example, status_of

STREAM = "text/event-stream"

REF = "#/components/schemas/{model}"
SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "BOUCHET_ADMIN_KEY"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "BOUCHET_ADMIN_KEY"},
}


class DescribedApi(FastAPI):
    """A FastAPI application with a complete OpenAPI document, built at the first request for it: it takes long."""

    def openapi(self) -> dict[str, Any]:
        """Return the whole document."""
        if self.openapi_schema is None:
            _complete(super().openapi())
        return super().openapi()


def _complete(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    schema = Problem.model_json_schema(ref_template=REF)
    schemas = components.setdefault("schemas", {})
    schemas.update(schema.pop("$defs", {}))
    schemas["Problem"] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = SCHEMES
    content = {"schema": {"$ref": REF.format(model="Problem")}, "example": problem_example("bad_request")}
    components["responses"] = {"Problem": {"description": "what went wrong", "content": {MEDIA_TYPE: content}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(method, path, operation)


def _complete_operation(method: str, path: str, operation: dict[str, Any]) -> None:
    is_open = path in OPEN_PATHS or path == SESSION_PATH
    responses = operation["responses"]
    responses.pop("422", None)
    for response in responses.values():
        for media, content in response.get("content", {}).items():
            if media == STREAM:
                content["example"] = _stream_example(path)
                response["description"] = LIVE_DESCRIPTION if path in NOT_RESUMED else STREAM_DESCRIPTION
            elif "example" not in content and "$ref" in content.get("schema", {}):
                content["example"] = RESPONSE_EXAMPLES.get(content["schema"]["$ref"].rpartition("/")[2], {})
    kinds = (*(() if is_open else ("unauthorized",)), *ERROR_KINDS.get((method, path), ()))
    responses.update(_error_responses(kinds))
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    operation["security"] = [] if is_open else [{name: []} for name in SCHEMES]


def _error_responses(kinds: Sequence[str]) -> dict[str, Any]:
    """Return a response for each status, with an example for each kind."""
    by_status: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        by_status.setdefault(str(status_of(kind)), {})[kind] = {"value": problem_example(kind)}
    return {
        status: {
            "description": TITLES[int(status)],
            "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}, "examples": examples}},
        }
        for status, examples in by_status.items()
    }


def _stream_example(path: str) -> str:
    endings = [ending for ending in STREAM_EXAMPLES if path.endswith(ending)]
    return STREAM_EXAMPLES[max(endings, key=len)] if endings else ""


_DISK: dict[str, Any] = {
    "state": "ready",
    "percent": 100,
    "bytes": 65_000_000_000,
    "total_bytes": 65_000_000_000,
    "revision": "9216db5781bf21249d130ec9da846c4624c16137",
    "last_used": "2026-11-21T09:30:00Z",
    "listed_at": "2026-11-22T12:00:00Z",
    "download": None,
}
_MODEL: dict[str, Any] = {
    "id": "Qwen/Qwen3-32B",
    "alias": "bouchet-qwen3-32b",
    "description": "32B dense, fast general-purpose",
    "gpus": 1,
    "nodes": 1,
    "window": 40960,
    "max_output": 8192,
    "quant": "fp8",
    "thinking": "off",
    "tools": True,
    "vision": False,
    "weights_gib": 61,
    "live": [{"id": "x7k2m4qfh3ab", "name": "bouchet-qwen3-32b", "phase": "ready"}],
    "disk": _DISK,
}
_KEY: dict[str, Any] = {name: value for name, value in examples.NEW_KEY.items() if name != "key"}
_FAILED: dict[str, Any] = {
    "id": "5f0c",
    "task": "submit",
    "deployment": "x7k2m4qfh3ab",
    "failed_at": "2026-11-22T12:00:00Z",
    "reason": "sbatch failed: no SSH connection",
}
_USAGE_LINE: dict[str, Any] = {
    "name": "alice",
    "requests": 120,
    "input_tokens": 2_400_000,
    "cached_tokens": 2_100_000,
    "output_tokens": 84_000,
    "first_token_ms": 240,
    "tokens_per_second": 118.5,
    "errors": 1,
    "errors_by_kind": {"overloaded_error": 1},
}
_TUNNEL: dict[str, Any] = {
    "state": "needs_human",
    "host": "bouchet",
    "since": "2026-11-22T12:00:00Z",
    "prompt": {"id": "3f9c", "title": "Duo", "questions": ["Passcode or option (1-3): "], "echo": [True]},
    "connections": 0,
}

_TARGETS: list[dict[str, Any]] = [
    {"number": 1, "shown": "ntfy (ntfys://***)", "problem": "", "sent_at": "2026-11-22T12:00:02Z"}
]
_SENT: dict[str, Any] = {
    "message": {
        "id": "notice-1763812800000-0",
        "kind": "ready",
        "title": "bouchet-qwen3-32b is ready",
        "text": "Start Claude Code with `bouchet`, or chat with `bouchet chat`.",
        "at": "2026-11-22T12:00:00Z",
    },
    "deliveries": [{"target": 1, "state": "sent", "tries": 1, "problem": ""}],
}
_NOTIFICATIONS: dict[str, Any] = {
    "configured": True,
    "running": True,
    "problem": "",
    "status": {"started_at": "2026-11-22T08:00:00Z", "events": ["ready", "ended", "needs_person"], "targets": _TARGETS},
    "messages": [_SENT],
}

RESPONSE_EXAMPLES: Mapping[str, dict[str, Any]] = {
    "Accepted": {"status": "accepted"},
    "Deployment": examples.DEPLOYMENT,
    "Download": examples.DOWNLOAD,
    "DownloadList": {"downloads": [examples.DOWNLOAD]},
    "FailedTask": _FAILED,
    "FailedTaskList": {"tasks": [_FAILED]},
    "ApiHealth": {"status": "ok", "redis": "ok"},
    "ImageJob": examples.IMAGE_JOB,
    "ImageJobList": {"jobs": [examples.IMAGE_JOB]},
    "ImageList": examples.IMAGES,
    "ApiKeyInfo": _KEY,
    "ApiKeyList": {"keys": [_KEY]},
    "ModelList": {"default": "Qwen/Qwen3-32B", "models": [_MODEL], "free_bytes": 2_000_000_000_000},
    "ModelDetails": {**_MODEL, **examples.CATALOG_LINES, "added": False},
    "InspectedModel": {**examples.HUB_MODEL, **examples.CATALOG_LINES, "known": True},
    "RemovedModel": {
        "model": "Qwen/Qwen3-32B",
        "bytes": 65_527_752_704,
        "folders": ["~/project_pi_ab12/you/bouchet-llm/models/Qwen/Qwen3-32B"],
    },
    "NewApiKey": examples.NEW_KEY,
    "Orphan": examples.ORPHANS["orphans"][0],
    "OrphanList": examples.ORPHANS,
    "DeploymentPage": {"deployments": [examples.DEPLOYMENT], "next_offset": 50, "cluster_outage": None},
    "LaunchPreview": examples.PREVIEW,
    "LedgerReport": examples.LEDGER_REPORT,
    "GpuReport": examples.GPU_REPORT,
    "BudgetReport": examples.BUDGET_REPORT,
    "AccountingReport": {"total": examples.ACCOUNTING, "jobs": [examples.JOB_DIFFERENCE]},
    "LedgerStatus": examples.LEDGER_STATUS,
    "RemovedImage": {"pin": "cuda128-0.19.1", "bytes": 8_400_000_000},
    "DoctorReport": examples.DOCTOR_REPORT,
    "StatusReport": {
        "deployments": [examples.DEPLOYMENT],
        "ended": [],
        "ended_more": 0,
        "tunnel": _TUNNEL,
        "tunnel_error": None,
        "cluster_outage": None,
        "orphans": [],
        "ledger_problem": "",
        "notifications_problem": "",
    },
    "TunnelStatus": _TUNNEL,
    "NotificationReport": _NOTIFICATIONS,
    "NotificationTest": {"test": _SENT, "targets": _TARGETS},
    "SessionInfo": {"signed_in": True, "token": "5d41402abc4b2a76b9719d911017c592", "expires_at": 1764417600},
    "SessionLink": {"path": "/#link=0oyxEXAMPLEuT9", "expires_in_s": 60},
    "UsageReport": {"by": "key", "since": "2026-11-21T12:00:00Z", "lines": [_USAGE_LINE]},
}

# the first event of a stream, by the end of its path
STREAM_EXAMPLES: Mapping[str, str] = {
    "/events": 'id: 1763812804000-0\ndata: {"id":"1763812804000-0","deployment":"x7k2m4qfh3ab","phase":"queued",'
    '"ending":null,"reason":"waits for its priority","at":"2026-11-22T12:00:04Z"}\n\n',
    "/v1/chat": 'data: {"choices":[{"index":0,"delta":{"content":"I am"}}]}\n\n',
    "/v1/live": 'event: requests\ndata: {"at":1763812804.2,"requests":[],"errors":[]}\n\n',
    "/logs": 'id: 4711\ndata: {"line":"INFO loading weights"}\n\n',
    "/images/jobs/{job}/events": f"id: 1763812804000-0\ndata: {json.dumps(examples.IMAGE_JOB)}\n\n",
    "/downloads/{download}/events": f"id: 1763812804000-0\ndata: {json.dumps(examples.DOWNLOAD)}\n\n",
}
NOT_RESUMED = ("/v1/live", "/v1/chat")
LIVE_DESCRIPTION = "Server-sent events. Such a stream is not resumed: one that is opened again begins at its start."
STREAM_DESCRIPTION = (
    "Server-sent events. To resume after a broken connection, send the `id` of the last event as `Last-Event-ID` "
    "(browsers do it by themselves): no event is repeated or lost. Lines that begin with a colon are keep-alives, "
    "one in 15 s. An event named `problem` contains the error that interrupts the stream."
)
