"""The question "what would this launch do?": everything that a submission would stage and run, and nothing done."""

from __future__ import annotations

from typing import Any

from bouchet_core.deployments import Deployment

from bouchet_worker.context import WorkerContext

from .job_files import SCRIPT
from .memory_check import memory_of
from .pin_check import refuse_other_than_pinned
from .plan import command_of, files_of, placement_of, planned

# a preview takes no slot; no file of a job depends on it
NO_SLOT = 0
SECRET_FILES = frozenset({"key"})


def preview(context: WorkerContext, record: Deployment) -> dict[str, Any]:
    """JSON for the api (its `Preview`). Asks the cluster as a launch would; leaves nothing on it and in the store."""
    job = planned(context, record, NO_SLOT)
    refuse_other_than_pinned(context, record)
    files = files_of(context, record, job)
    return {
        "job_name": job.name,
        "placement": placement_of(job).model_dump(mode="json"),
        "image": job.image,
        "window": job.window,
        "memory": memory_of(context, record, job).model_dump(mode="json"),
        "folder": context.layout.job(job.name),
        "script": context.scripts.files[SCRIPT].decode(),
        "command": command_of(context, job),
        "files": {name: content.decode() for name, content in files.items() if name not in SECRET_FILES},
    }
