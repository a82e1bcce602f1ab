"""Images: builds and verifications are a kind of batch job (see batch_job.py); what lies there is asked on the login node."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bouchet_core.errors import GatewayError, ImageInUseError, ImageMissingError, RemoteCommandError
from bouchet_core.images import ImageList, ImagePin, ImageStatus, RemovedImage, job_stem, load_pins
from bouchet_core.tasks import TaskName

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import stage_scripts

from .image_output import PROGRAM, files_for, placement_for, recipe_files, users_of
from .submit import Kind, Progress, start, stop

log = logging.getLogger(__name__)

LOOKER = "list_images.py"
TIMEOUT_S = 30.0


class ImageProgress(Progress):
    """What an image's job says of itself."""

    stage: str = ""
    done: int = 0
    of: int = 0
    sha256: str | None = None
    bytes: int | None = None
    seconds: int | None = None
    current: bool = False


def image(context: WorkerContext, identity: str) -> str:
    """Submits the job, or adopts the one that is there. Says in a word what came of it."""
    return start(context, IMAGES, identity)


def stop_image(context: WorkerContext, identity: str) -> str:
    """Ends the job by its id; the image that was there before stays."""
    return stop(context, IMAGES, identity)


def counts(progress: ImageProgress) -> Mapping[str, object]:
    """What the record takes over."""
    names = ("stage", "done", "of", "sha256", "bytes", "seconds", "current")
    return {name: getattr(progress, name) for name in names}


IMAGES = Kind(
    word="image",
    records=lambda store: store.images,
    stem=lambda record: job_stem(record.action, record.pin),
    files=files_for,
    placement=placement_for,
    on_login=lambda record, site: record.action == "verify" and site.download_on == "login",
    program=PROGRAM,
    start=TaskName.IMAGE,
    stop=TaskName.CANCEL_IMAGE,
    progress=ImageProgress,
    counts=counts,
    cut_short=lambda record: f"nothing half-made is left; `bouchet image {record.action} {record.pin}` begins anew",
    cancelled=lambda _record: "cancelled as asked; nothing half-made is left",
)


# what lies there


def list_images(context: WorkerContext) -> ImageList:
    """Pins and images; where the cluster cannot be asked, `problem` says why."""
    pins = load_pins(context.pins_dir)
    try:
        found, free, problem = *_look(context), ""
    except GatewayError as exc:
        found, free, problem = None, None, str(exc)
    names = [*pins, *sorted(set(found or ()) - set(pins))]
    return ImageList(
        images=tuple(_standing(name, pins.get(name), found, context) for name in names),
        free_bytes=free,
        problem=problem,
    )


def remove_image(context: WorkerContext, pin: str, force: bool) -> RemovedImage:
    """Removes image and records. Raises ImageInUseError (unless forced), ImageMissingError, GatewayError."""
    users = users_of(pin, context)
    if users and not force:
        raise ImageInUseError(pin, users)
    found, _ = _look(context)
    if pin not in found:
        raise ImageMissingError(pin)
    folder = context.layout.scripts(context.scripts.digest)
    argv = ["python3", f"{folder}/{LOOKER}", "remove", context.site.images_dir, pin]
    try:
        text = context.gateway.run(argv, timeout_s=TIMEOUT_S).stdout
    except RemoteCommandError as exc:
        raise GatewayError(f"the image {pin} could not be removed: {exc.stderr.strip() or exc}") from exc
    log.info("image %s: removed%s", pin, f", although {', '.join(users)} serve from it" if users else "")
    return RemovedImage(pin=pin, bytes=int(text))


def _look(context: WorkerContext) -> tuple[dict[str, dict[str, Any]], int | None]:
    stage_scripts(context)
    folder = context.layout.scripts(context.scripts.digest)
    argv = ["python3", f"{folder}/{LOOKER}", "list", context.site.images_dir]
    text = context.gateway.run(argv, timeout_s=TIMEOUT_S).stdout
    try:
        said = json.loads(text)
        return dict(said["images"]), said["free_bytes"]
    except (ValueError, KeyError, TypeError) as exc:
        raise GatewayError(f"cannot read what {LOOKER} printed: {text[:200]!r}") from exc


def _standing(
    name: str, pin: ImagePin | None, found: Mapping[str, Mapping[str, Any]] | None, context: WorkerContext
) -> ImageStatus:
    planned = {"vllm": pin.vllm, "torch": pin.torch, "cuda": pin.cuda, "min_driver": pin.min_driver} if pin else {}
    row = (found or {}).get(name)
    facts = {key: word for key, word in (row or {}).items() if key in ImageStatus.model_fields and word is not None}
    made = facts.pop("made_at", None)
    return ImageStatus(
        **{
            **planned,
            "oci": pin.oci if pin else None,
            **facts,
            "pin": name,
            "known": pin is not None,
            "made_at": datetime.fromtimestamp(made, UTC) if made else None,
            "is_default": name == context.site.default_image,
            "in_site": context.site.image(name) is not None,
            "models": _models_of(name, context),
            "deployments": tuple(users_of(name, context)),
            "state": _state(pin, row, context) if found is not None else "unknown",
        }
    )


def _state(pin: ImagePin | None, row: Mapping[str, Any] | None, context: WorkerContext) -> str:
    if row is None:
        return "missing"
    if pin is None:
        return "ready"
    wanted = pin.recipe_sha256(recipe_files(context)["vllm.def"])
    return "ready" if row.get("recipe_sha256") == wanted else "outdated"


def _models_of(name: str, context: WorkerContext) -> Sequence[str]:
    """Those of the catalog that name the image; those that name none take the site's default."""
    return tuple(entry.alias for entry in context.catalog.entries.values() if entry.image == name)
