"""How an errand stands on the queue: what the api, which writes it, and the worker, which does it, spell alike."""

from __future__ import annotations

from typing import Any

QUEUE = "errands"
MODULE = "bouchet_worker.tasks."
SUBMIT, STOP = "submit", "stop"
# an errand waits at the gateway for a person (Duo) at most this long
TIMEOUT_S = 300
# one that raised is tried again after these pauses, then it waits for a person
RETRY_AFTER_S = (2, 10, 60)
# finished ones are of no use to anybody; those that kept failing stay for a week to be looked at
RESULT_TTL_S = 60
FAILURE_TTL_S = 7 * 24 * 3600


def task_id(errand: str, deployment: str) -> str:
    """The same errand for the same deployment is one thing, however often it is put on the queue."""
    return f"{errand}-{deployment}"


def task_call(errand: str, deployment: str) -> dict[str, Any]:
    """What rq's `enqueue_call` takes for it, its tries apart."""
    return {
        "func": MODULE + errand,
        "args": (deployment,),
        "timeout": TIMEOUT_S,
        "result_ttl": RESULT_TTL_S,
        "failure_ttl": FAILURE_TTL_S,
        "description": f"{errand} {deployment}",
        "job_id": task_id(errand, deployment),
    }
