"""The question "what would this launch do?": everything that a submission would stage and run, and nothing done."""

from __future__ import annotations

from typing import Any

from bouchet_core.deployments import Deployment

from bouchet_worker.context import Desk

from .job_files import SCRIPT
from .memory_check import memory_of
from .pin_check import refuse_other_than_pinned
from .plan import command_of, files_of, placement_of, planned

# a preview takes no slot; no file of a job depends on it
NO_SLOT = 0
SECRET_FILES = frozenset({"key"})


def preview(desk: Desk, record: Deployment) -> dict[str, Any]:
    """JSON for the api (its `Preview`). Asks the cluster as a launch would; leaves nothing on it and in the store."""
    job = planned(desk, record, NO_SLOT)
    refuse_other_than_pinned(desk, record)
    files = files_of(desk, record, job)
    return {
        "job_name": job.name,
        "placement": placement_of(job).model_dump(mode="json"),
        "image": job.image,
        "window": job.window,
        "memory": memory_of(desk, record, job).model_dump(mode="json"),
        "folder": desk.layout.job(job.name),
        "script": desk.luggage.files[SCRIPT].decode(),
        "command": command_of(desk, job),
        "files": {name: content.decode() for name, content in files.items() if name not in SECRET_FILES},
    }
