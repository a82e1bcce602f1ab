"""The errors of each operation, with an example of each, for /openapi.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bouchet_api.problems import STATUS_BY_KIND, TITLES

# kinds of the middleware and of request validation, which are not in the error trees
OWN_STATUS: Mapping[str, int] = {
    "bad_request": 422,
    "foreign_host": 403,
    "foreign_origin": 403,
    "internal": 500,
    "length_required": 411,
    "method_not_allowed": 405,
    "not_found": 404,
    "token_missing": 403,
    "too_large": 413,
    "unauthorized": 401,
}

DETAIL_EXAMPLES: Mapping[str, str] = {
    "bad_request": "gpus: must be a whole number; time: must be a walltime such as 06:00:00 or 2-00:00:00",
    "unauthorized": "send BOUCHET_ADMIN_KEY of .env as `Authorization: Bearer` or `x-api-key`",
    "unknown_model": "no model 'qwen3-23b' in the catalog; did you mean bouchet-qwen3-32b?",
    "launch_refused": "gpu_devel allows at most 2 GPUs per user; gpu_h200 would take 4",
    "name_taken": "'mine' is already served by deployment x7k2m4qfh3ab: use it (`bouchet`, `bouchet chat`), choose "
    "another name, or `bouchet cancel x7k2m4qfh3ab` first",
    "idempotency_key_reused": "this Idempotency-Key was used for another request; choose a new one",
    "unknown_deployment": "no deployment 'mine'; `bouchet status` lists them",
    "unknown_download": "no download 'q2m4x7kfh3ab'; `bouchet download MODEL` starts one",
    "unknown_pin": "no pin 'cuda13'; known: cpu-0.32.0, cuda128-0.19.1, cuda13-0.32.0 (`bouchet image list`)",
    "unknown_image_job": "no image build 'q2m4x7kfh3ab'; `bouchet image build PIN` starts one",
    "image_in_use": "mine uses the image cuda13-0.32.0; `bouchet cancel` first, or add --force",
    "image_missing": "no image 'cuda13-0.32.0' on the cluster; `bouchet image list` shows which there are",
    "no_free_slot": "all 16 slots are in use; cancel a deployment first (`bouchet status`)",
    "attach_refused": "port 22 is not one of 1024-65535, on which people's servers listen",
    "server_unreachable": "a1102u01n01:8000 cannot be attached: nothing answers there: Connection refused",
    "server_key_refused": "a1102u01n01:8000 cannot be attached: the server refuses this key (HTTP 401)",
    "no_model_server": "a1102u01n01:8000 cannot be attached: what answers there is not a model server: GET /v1/models "
    "returned HTTP 404",
    "model_not_served": "the server has several models; name one with --model: glm-4.7, kimi-k2",
    "no_log_yet": "deployment x7k2m4qfh3ab has no log: queued",
    "file_missing": "no file /home/you/bouchet-llm/logs/4711.log",
    "store_unavailable": "the store (Redis) does not answer: Connection refused; see `make logs`",
    "gateway_unreachable": "cannot connect to the gateway (Connection refused); see `make logs`",
    "tunnel_down": "no SSH connection to bouchet; trying again in 4 s",
    "human_needed": "the login to bouchet waits for you; `bouchet tunnel`",
    "command_timeout": "squeue did not end within 30 s",
    "worker_silent": "the worker did not answer 'preview' within 20 s; see `make logs`",
    "notifier_silent": "no result of the test within 60 s; `bouchet notify` shows it later",
    "targets_missing": "no target is configured: write URLs such as ntfys://TOPIC into NOTIFY_URLS of .env, then run "
    "`make up`",
    "hub_model": "org/name is gated: accept its terms on its page on the hub, then set a token that may read it "
    "(HF_TOKEN in .env)",
    "model_in_use": "bouchet-qwen3-32b uses Qwen/Qwen3-32B; `bouchet cancel` first, or add --force",
    "model_missing": "nothing of Qwen/Qwen3-32B can be removed from the cluster: it is not there",
    "configuration": "/etc/bouchet/models.yaml:12: unknown field 'windw'; did you mean 'window'?",
    "stale_prompt": "that prompt is no longer open; GET /v1/tunnel shows the one that is",
    "host_key_not_trusted": "bouchet shows a different key now; compare its fingerprint again",
    "unknown_orphan": "no orphaned job 4711; `bouchet orphans --all` lists them",
    "orphan_refused": "job 4711 cannot be adopted: its files are gone; cancel it",
    "unknown_task": "no failed task '5f0c'; `bouchet tasks` lists them",
    "key_name_taken": "a key 'alice' exists already; `bouchet keys revoke alice` first, or choose another name",
    "sign_in_refused": "that is not BOUCHET_ADMIN_KEY of this installation's .env; copy it whole",
    "link_refused": "this link was used before, or is older than 60 s; run `bouchet open` again for a new one",
    "foreign_origin": "only the dashboard's own page may use its session",
    "unknown_key": "no key 'alice'; `bouchet keys list` shows them",
    "ledger_unavailable": "the ledger cannot be used: PostgreSQL's bouchet on db.example cannot be reached; requests "
    "are served, and their entries wait in Redis",
    "invalid_period": "`from` (2026-11-30) is after `to` (2026-11-01)",
}

_STORE = ("store_unavailable",)
_CLUSTER = ("gateway_unreachable", "tunnel_down", "human_needed", "command_timeout")
_WORKER = ("worker_silent", *_CLUSTER, *_STORE)
_LEDGER = ("bad_request", "invalid_period", "ledger_unavailable")
_ATTACH = (
    *("bad_request", "launch_refused", "name_taken", "no_free_slot", "attach_refused", "server_unreachable"),
    *("server_key_refused", "no_model_server", "model_not_served"),
)
_LAUNCH = ("bad_request", "unknown_model", "unknown_deployment", "launch_refused", "configuration")

# method and path -> kinds, without `unauthorized`, which every path except /healthz has
ERROR_KINDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("get", "/healthz"): _STORE,
    ("get", "/metrics"): _STORE,
    ("get", "/v1/status"): _STORE,
    ("get", "/v1/events"): ("bad_request", *_STORE),
    ("get", "/v1/deployments"): ("bad_request", *_STORE),
    ("post", "/v1/deployments"): (*_LAUNCH, "name_taken", "idempotency_key_reused", *_STORE),
    ("post", "/v1/deployments/attach"): (*_ATTACH, *_WORKER),
    ("post", "/v1/deployments/preview"): (*_LAUNCH, "name_taken", *_WORKER),
    ("get", "/v1/deployments/{deployment}"): ("unknown_deployment", *_STORE),
    ("patch", "/v1/deployments/{deployment}"): ("bad_request", "launch_refused", "unknown_deployment", *_STORE),
    ("delete", "/v1/deployments/{deployment}"): ("unknown_deployment", *_STORE),
    ("get", "/v1/deployments/{deployment}/events"): ("bad_request", "unknown_deployment", *_STORE),
    ("get", "/v1/deployments/{deployment}/logs"): (
        "bad_request", "unknown_deployment", "no_log_yet", "file_missing", *_CLUSTER, *_STORE,
    ),
    ("get", "/v1/models"): ("configuration", *_STORE),
    ("get", "/v1/models/{model}"): ("unknown_model", "configuration", *_STORE),
    ("delete", "/v1/models/{model}"): ("bad_request", "unknown_model", "model_in_use", "model_missing", *_WORKER),
    ("post", "/v1/models/inspect"): ("bad_request", "hub_model", "configuration", *_WORKER),
    ("post", "/v1/models/download"): ("bad_request", "unknown_model", *_STORE),
    ("get", "/v1/downloads"): ("bad_request", *_STORE),
    ("get", "/v1/downloads/{download}"): ("unknown_download", *_STORE),
    ("delete", "/v1/downloads/{download}"): ("unknown_download", *_STORE),
    ("get", "/v1/downloads/{download}/events"): ("bad_request", "unknown_download", *_STORE),
    ("get", "/v1/images"): ("configuration", *_WORKER),
    ("delete", "/v1/images/{pin}"): ("bad_request", "image_in_use", "image_missing", *_WORKER),
    ("post", "/v1/images/jobs"): ("bad_request", "unknown_pin", "configuration", *_STORE),
    ("get", "/v1/images/jobs"): ("bad_request", *_STORE),
    ("get", "/v1/images/jobs/{job}"): ("unknown_image_job", *_STORE),
    ("delete", "/v1/images/jobs/{job}"): ("unknown_image_job", *_STORE),
    ("get", "/v1/images/jobs/{job}/events"): ("bad_request", "unknown_image_job", *_STORE),
    ("get", "/v1/tunnel"): ("gateway_unreachable",),
    ("post", "/v1/tunnel/answer"): ("bad_request", "stale_prompt", "gateway_unreachable"),
    ("post", "/v1/tunnel/trust"): ("bad_request", "host_key_not_trusted", "gateway_unreachable"),
    ("post", "/v1/tunnel/forget"): ("bad_request", "host_key_not_trusted", "gateway_unreachable"),
    ("post", "/v1/tunnel/connect"): ("gateway_unreachable",),
    ("get", "/v1/notifications"): _STORE,
    ("post", "/v1/notifications/test"): ("targets_missing", "notifier_silent", *_STORE),
    ("get", "/v1/orphans"): _WORKER,
    ("post", "/v1/orphans/{slurm_id}/adopt"): ("unknown_orphan", "orphan_refused", "name_taken", *_WORKER),
    ("delete", "/v1/orphans/{slurm_id}"): ("unknown_orphan", "orphan_refused", *_WORKER),
    ("get", "/v1/tasks/failed"): _STORE,
    ("post", "/v1/tasks/failed/{task}/retry"): ("unknown_task", *_STORE),
    ("delete", "/v1/tasks/failed/{task}"): ("unknown_task", *_STORE),
    ("get", "/v1/keys"): _STORE,
    ("post", "/v1/keys"): ("bad_request", "key_name_taken", *_STORE),
    ("delete", "/v1/keys/{name}"): ("unknown_key", *_STORE),
    ("get", "/v1/usage"): ("bad_request", "ledger_unavailable"),
    ("get", "/v1/live"): _STORE,
    ("post", "/v1/chat"): ("bad_request",),
    ("get", "/v1/session"): ("foreign_origin",),
    ("post", "/v1/session"): ("bad_request", "sign_in_refused", "link_refused", "foreign_origin"),
    ("delete", "/v1/session"): ("foreign_origin",),
    ("post", "/v1/session/link"): (),
    ("get", "/v1/ledger"): _LEDGER,
    ("get", "/v1/ledger/gpu"): _LEDGER,
    ("get", "/v1/ledger/budget"): _LEDGER,
    ("get", "/v1/ledger/requests"): _LEDGER,
    ("get", "/v1/ledger/accounting"): _LEDGER,
    ("post", "/v1/ledger/accounting"): _WORKER,
    ("get", "/v1/ledger/export"): _LEDGER,
    ("get", "/v1/ledger/status"): _STORE,
    ("get", "/usage"): _LEDGER,
    # whatever is down is a failed check there
    ("get", "/v1/doctor"): (),
}  # fmt: skip


def status_of(kind: str) -> int:
    """Return the HTTP status of a kind of either table."""
    return STATUS_BY_KIND[kind] if kind in STATUS_BY_KIND else OWN_STATUS[kind]


def problem_example(kind: str) -> dict[str, Any]:
    """Return an example problem of this kind."""
    status = status_of(kind)
    return {
        "type": "about:blank",
        "title": TITLES[status],
        "status": status,
        "detail": DETAIL_EXAMPLES[kind],
        "kind": kind,
    }
