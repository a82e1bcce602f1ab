"""The functions that RQ calls by name (`TaskName`). None of them waits, and each may be run again at any time.

A query is a task whose result the API waits for: `{"answer": ...}`, or `{"kind", "detail"}` of the error, as JSON.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from bouchet_core.config.hub_models import HubModelRequest
from bouchet_core.deployments import Deployment
from bouchet_core.errors import BouchetError

from .attach.attach import AttachTask, attach_server
from .batch import download as downloads
from .batch import image as image_jobs
from .batch import image_list
from .context import WorkerContext
from .doctor import check_cluster
from .hub import inspect as hub
from .launch import checks as model_check
from .launch import plan
from .launch import submit as launches
from .ledger import accounting
from .reconcile import orphans
from .slurm.error_messages import explain_outage

_context: WorkerContext | None = None


def set_context(context: WorkerContext) -> None:
    """Set what the tasks of this process work with; main() calls it once before the first task."""
    global _context
    _context = context


def current_context() -> WorkerContext:
    """Return what main() has set. Raises RuntimeError before that."""
    if _context is None:
        raise RuntimeError("set_context() was not called before the first task")
    return _context


# tasks


def submit(deployment: str) -> str:
    """Submit a requested deployment to Slurm."""
    return _run_launch_task(launches.submit, deployment)


def cancel(deployment: str) -> str:
    """Cancel a deployment's job, or end the deployment where it has none."""
    return _run_launch_task(launches.cancel, deployment)


def _run_launch_task(task: Callable[[WorkerContext, str], str], deployment: str) -> str:
    """Run it; store an unexpected error on the record, and raise it, so that RQ retries."""
    try:
        return task(current_context(), deployment)
    except BouchetError:
        raise
    except Exception as exc:
        reason = f"unexpected error ({type(exc).__name__}: {exc}); retrying, see `bouchet tasks`"
        with contextlib.suppress(BouchetError):
            launches.set_reason(current_context(), deployment, reason)
        raise


def download(identity: str) -> str:
    """Submit a download, or start it on the login node."""
    return downloads.submit_download(current_context(), identity)


def cancel_download(identity: str) -> str:
    """Cancel a download; downloaded files are kept."""
    return downloads.cancel_download(current_context(), identity)


def image(identity: str) -> str:
    """Submit the build or verification of an image."""
    return image_jobs.submit_image_job(current_context(), identity)


def cancel_image(identity: str) -> str:
    """Cancel the build or verification of an image."""
    return image_jobs.cancel_image_job(current_context(), identity)


def list_models(_: str = "") -> str:
    """List the models on the cluster, and store the result."""
    return model_check.list_models(current_context())


# queries


def preview(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a launch of that record, which is not stored, would submit."""
    return _query(lambda: plan.preview(current_context(), Deployment.model_validate(record)))


def list_images() -> dict[str, Any]:
    """Return pins and images."""
    return _query(lambda: image_list.list_images(current_context()).model_dump(mode="json"))


def remove_image(pin: str, force: bool) -> dict[str, Any]:
    """Remove an image."""
    return _query(lambda: image_list.remove_image(current_context(), pin, force).model_dump(mode="json"))


def inspect_hub_model(request: dict[str, Any]) -> dict[str, Any]:
    """Return what the hub says of a model, and the catalog entry that is proposed."""
    asked = HubModelRequest.model_validate(request)
    return _query(lambda: hub.inspect_hub_model(current_context(), asked).model_dump(mode="json"))


def remove_model(model: str, force: bool) -> dict[str, Any]:
    """Remove a model's weights."""
    return _query(lambda: hub.remove_model(current_context(), model, force).model_dump(mode="json"))


def attach(request: dict[str, Any]) -> dict[str, Any]:
    """Attach a server on the cluster's network, and return its deployment."""
    asked = AttachTask.model_validate(request)
    return _query(lambda: attach_server(current_context(), asked).model_dump(mode="json"))


def list_orphans() -> dict[str, Any]:
    """Return the jobs without a record."""
    return _query(lambda: [orphan.model_dump(mode="json") for orphan in orphans.list_orphans(current_context())])


def adopt_orphan(slurm_id: int) -> dict[str, Any]:
    """Adopt a job without a record, and return its new deployment."""
    return _query(lambda: orphans.adopt_orphan(current_context(), slurm_id).model_dump(mode="json"))


def cancel_orphan(slurm_id: int) -> dict[str, Any]:
    """Cancel a job without a record."""
    return _query(lambda: orphans.cancel_orphan(current_context(), slurm_id).model_dump(mode="json"))


def doctor() -> dict[str, Any]:
    """Check the cluster."""
    return _query(lambda: [check.model_dump(mode="json") for check in check_cluster(current_context())])


def compare_accounting() -> dict[str, Any]:
    """Compare the ledger with sacct now, and return how many jobs it knows."""
    return _query(lambda: accounting.compare_accounting(current_context()))


def _query(query: Callable[[], Any]) -> dict[str, Any]:
    """Return the query's result or its error, as the API expects it."""
    try:
        return {"answer": query()}
    except BouchetError as exc:
        return {"kind": exc.kind, "detail": explain_outage(str(exc))}
