"""Background tasks as they are written to the RQ queue: the API enqueues them by name, the worker runs them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

QUEUE = "tasks"
MODULE = "bouchet_worker.tasks."
# names of the heartbeats of worker and notifier in the store
HEARTBEAT = "worker"
NOTIFIER_HEARTBEAT = "notifier"
# the longest time that a task waits at the gateway for a person (Duo)
TIMEOUT_S = 300
# pauses before a task that raised is tried again; after the last one it waits for a person
RETRY_AFTER_S = (2, 10, 60)
# results are read at once; tasks that failed every try are kept a week for `bouchet tasks`
RESULT_TTL_S = 60
FAILURE_TTL_S = 7 * 24 * 3600


class TaskName(StrEnum):
    """Every task, by the name of its function in `bouchet_worker.tasks`.

    Tasks of the second group are queries: the API waits for what they return.
    """

    SUBMIT = "submit"
    CANCEL = "cancel"
    DOWNLOAD = "download"
    CANCEL_DOWNLOAD = "cancel_download"
    IMAGE = "image"
    CANCEL_IMAGE = "cancel_image"
    LIST_MODELS = "list_models"

    PREVIEW = "preview"
    LIST_IMAGES = "list_images"
    REMOVE_IMAGE = "remove_image"
    INSPECT_HUB_MODEL = "inspect_hub_model"
    REMOVE_MODEL = "remove_model"
    ATTACH = "attach"
    LIST_ORPHANS = "list_orphans"
    ADOPT_ORPHAN = "adopt_orphan"
    CANCEL_ORPHAN = "cancel_orphan"
    DOCTOR = "doctor"
    COMPARE_ACCOUNTING = "compare_accounting"


def task_id(task: TaskName, subject: str) -> str:
    """Return the RQ job id: one task for one deployment (or batch job) is on the queue once."""
    return f"{task}-{subject}"


def task_call(task: TaskName, subject: str) -> dict[str, Any]:
    """Return the arguments of rq's `enqueue_call`, without the retry policy."""
    return {
        "func": MODULE + task,
        "args": (subject,),
        "timeout": TIMEOUT_S,
        "result_ttl": RESULT_TTL_S,
        "failure_ttl": FAILURE_TTL_S,
        "description": f"{task} {subject}",
        "job_id": task_id(task, subject),
    }
