"""Images: builds and verifications are a kind of chore (see batch_job.py); what lies there is asked on the login node."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bouchet_core.errors import GatewayError, ImageInUseError, ImageMissingError, RemoteCommandError
from bouchet_core.images import ImageList, ImagePin, ImageStatus, RemovedImage, job_stem, load_pins

from bouchet_worker.context import Desk
from bouchet_worker.scripts import stage_luggage

from .image_output import PROGRAM, SCRIPT, files_for, placement_for, recipe_files, users_of
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


def image(desk: Desk, identity: str) -> str:
    """Submits the job, or adopts the one that is there. Says in a word what came of it."""
    return start(desk, IMAGES, identity)


def stop_image(desk: Desk, identity: str) -> str:
    """Ends the job by its id; the image that was there before stays."""
    return stop(desk, IMAGES, identity)


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
    script=SCRIPT,
    program=PROGRAM,
    start="image",
    stop="stop_image",
    progress=ImageProgress,
    counts=counts,
    cut_short=lambda record: f"nothing half-made is left; `bouchet image {record.action} {record.pin}` begins anew",
    cancelled=lambda _record: "cancelled as asked; nothing half-made is left",
)


# what lies there


def list_images(desk: Desk) -> ImageList:
    """Pins and images; where the cluster cannot be asked, `problem` says why."""
    pins = load_pins(desk.pins_dir)
    try:
        found, free, problem = *_look(desk), ""
    except GatewayError as exc:
        found, free, problem = None, None, str(exc)
    names = [*pins, *sorted(set(found or ()) - set(pins))]
    return ImageList(
        images=tuple(_standing(name, pins.get(name), found, desk) for name in names), free_bytes=free, problem=problem
    )


def remove_image(desk: Desk, pin: str, force: bool) -> RemovedImage:
    """Removes image and records. Raises ImageInUseError (unless forced), ImageMissingError, GatewayError."""
    users = users_of(pin, desk)
    if users and not force:
        raise ImageInUseError(pin, users)
    found, _ = _look(desk)
    if pin not in found:
        raise ImageMissingError(pin)
    folder = desk.layout.luggage(desk.luggage.digest)
    argv = ["python3", f"{folder}/{LOOKER}", "remove", desk.site.images_dir, pin]
    try:
        text = desk.gateway.run(argv, timeout_s=TIMEOUT_S).stdout
    except RemoteCommandError as exc:
        raise GatewayError(f"the image {pin} could not be removed: {exc.stderr.strip() or exc}") from exc
    log.info("image %s: removed%s", pin, f", although {', '.join(users)} serve from it" if users else "")
    return RemovedImage(pin=pin, bytes=int(text))


def _look(desk: Desk) -> tuple[dict[str, dict[str, Any]], int | None]:
    stage_luggage(desk)
    folder = desk.layout.luggage(desk.luggage.digest)
    argv = ["python3", f"{folder}/{LOOKER}", "look", desk.site.images_dir]
    text = desk.gateway.run(argv, timeout_s=TIMEOUT_S).stdout
    try:
        said = json.loads(text)
        return dict(said["images"]), said["free_bytes"]
    except (ValueError, KeyError, TypeError) as exc:
        raise GatewayError(f"cannot read what {LOOKER} printed: {text[:200]!r}") from exc


def _standing(
    name: str, pin: ImagePin | None, found: Mapping[str, Mapping[str, Any]] | None, desk: Desk
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
            "is_default": name == desk.site.default_image,
            "in_site": desk.site.image(name) is not None,
            "models": _models_of(name, desk),
            "deployments": tuple(users_of(name, desk)),
            "state": _state(pin, row, desk) if found is not None else "unknown",
        }
    )


def _state(pin: ImagePin | None, row: Mapping[str, Any] | None, desk: Desk) -> str:
    if row is None:
        return "missing"
    if pin is None:
        return "ready"
    wanted = pin.recipe_sha256(recipe_files(desk)["vllm.def"])
    return "ready" if row.get("recipe_sha256") == wanted else "outdated"


def _models_of(name: str, desk: Desk) -> Sequence[str]:
    """Those of the catalog that name the image; those that name none take the site's default."""
    return tuple(entry.alias for entry in desk.catalog.entries.values() if entry.image == name)
