"""The functions that RQ calls by name. Each is a step and never a wait; each may be called again at any time.

A *question* is a task whose answer the api waits for: it returns `{"answer": ...}`, or `{"kind", "detail"}` of the
error that it met, both JSON.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from bouchet_core.deployments import Deployment
from bouchet_core.errors import BouchetError, UnknownDeploymentError

from .batch.download import download as _download
from .batch.download import stop_download as _stop_download
from .batch.image import image as _image
from .batch.image import list_images as _list_images
from .batch.image import remove_image as _remove_image
from .batch.image import stop_image as _stop_image
from .context import WorkerContext
from .doctor import check_cluster
from .launch.cancel import stop as _stop
from .launch.model_check import look_at_disk as _look_at_disk
from .launch.preview import preview as _preview
from .launch.submit import note
from .launch.submit import submit as _submit
from .reconcile.orphans import adopt_orphan as _adopt_orphan
from .reconcile.orphans import cancel_orphan as _cancel_orphan
from .reconcile.orphans import list_orphans as _list_orphans
from .slurm.outage import unanswered

_open: list[WorkerContext] = []


def open_context(context: WorkerContext) -> None:
    """Tasks of this process work with that desk from now on; called once, by main()."""
    _open[:] = [context]


def submit(deployment: str) -> str:
    """Takes a requested deployment to Slurm."""
    return _noted(_submit, deployment)


def cancel(deployment: str) -> str:
    """Cancels a deployment's job, or ends the deployment where it has none."""
    return _noted(_stop, deployment)


def download(identity: str) -> str:
    """Takes a download to Slurm, or to the login node."""
    return _download(_open[0], identity)


def cancel_download(identity: str) -> str:
    """Ends a download's job; what has come is kept."""
    return _stop_download(_open[0], identity)


def image(identity: str) -> str:
    """Takes a build or verification of an image to Slurm."""
    return _image(_open[0], identity)


def cancel_image(identity: str) -> str:
    """Ends an image's job."""
    return _stop_image(_open[0], identity)


def list_images() -> dict[str, Any]:
    """Question: pins, and which images lie on the cluster."""
    return answered(lambda: _list_images(_open[0]).model_dump(mode="json"))


def remove_image(pin: str, force: bool) -> dict[str, Any]:
    """Question: removes an image."""
    return answered(lambda: _remove_image(_open[0], pin, force).model_dump(mode="json"))


def list_models(_: str = "") -> str:
    """Looks which models lie on the cluster."""
    return _look_at_disk(_open[0])


def _noted(act: Callable[[WorkerContext, str], str], deployment: str) -> str:
    """Does it. An error that nobody foresaw is told on the record, and raised: the queue tries again, then gives up."""
    try:
        return act(_open[0], deployment)
    except UnknownDeploymentError:
        return "no such deployment"
    except BouchetError:
        raise
    except Exception as exc:
        words = f"an error nobody foresaw ({type(exc).__name__}: {exc}); it is tried again, see `bouchet tasks`"
        with contextlib.suppress(BouchetError):
            note(_open[0], deployment, words)
        raise


def preview(record: dict[str, Any]) -> dict[str, Any]:
    """A question: what a launch of that record, which nobody keeps, would do."""
    return answered(lambda: _preview(_open[0], Deployment.model_validate(record)))


def list_orphans() -> dict[str, Any]:
    """Question: the jobs without a record."""
    return answered(lambda: [orphan.model_dump(mode="json") for orphan in _list_orphans(_open[0])])


def adopt_orphan(slurm_id: int) -> dict[str, Any]:
    """Question: takes over a job without a record; the deployment that it is from now on."""
    return answered(lambda: _adopt_orphan(_open[0], slurm_id).model_dump(mode="json"))


def cancel_orphan(slurm_id: int) -> dict[str, Any]:
    """Question: ends a job without a record."""
    return answered(lambda: _cancel_orphan(_open[0], slurm_id).model_dump(mode="json"))


def doctor() -> dict[str, Any]:
    """Question: what is well on the cluster and what is not."""
    return answered(lambda: [check.model_dump(mode="json") for check in check_cluster(_open[0])])


def answered(question: Callable[[], Any]) -> dict[str, Any]:
    """The answer of a question, or its error, as the api reads it."""
    try:
        return {"answer": question()}
    except BouchetError as exc:
        return {"kind": exc.kind, "detail": unanswered(str(exc))}
