"""Images on the cluster: the list of pins and images, and the removal of an image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bouchet_core.errors import GatewayError, ImageInUseError, ImageMissingError, RemoteCommandError
from bouchet_core.images import ImageList, ImagePin, ImageStatus, RemovedImage, load_pins
from bouchet_core.values import pin_arch

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import output_errors_mapped, run_script, run_script_text

from .image import image_users, recipe_files

log = logging.getLogger(__name__)

SCRIPT = "list_images.py"
LIST_TIMEOUT_S = 30.0

# a row of list_images.py: facts about one image
ImageRow = Mapping[str, Any]


def list_images(context: WorkerContext) -> ImageList:
    """Return pins and images. Where the cluster does not answer, `problem` says why, and only pins are listed."""
    pins = load_pins(context.pins_dir)
    try:
        found, free, problem = *_list(context), ""
    except GatewayError as exc:
        found, free, problem = None, None, str(exc)
    names = [*pins, *sorted(set(found or ()) - set(pins))]
    return ImageList(
        images=tuple(_status(name, pins.get(name), found, context) for name in names),
        free_bytes=free,
        problem=problem,
    )


def remove_image(context: WorkerContext, pin: str, force: bool) -> RemovedImage:
    """Remove the image. Raises ImageInUseError (unless forced), ImageMissingError and GatewayError."""
    users = image_users(pin, context)
    if users and not force:
        raise ImageInUseError(pin, users)
    found, _ = _list(context)
    if pin not in found:
        raise ImageMissingError(pin)
    arguments = ("remove", context.site.images_dir, pin)
    try:
        text = run_script_text(context, SCRIPT, *arguments, timeout_s=LIST_TIMEOUT_S)
    except RemoteCommandError as exc:
        raise GatewayError(f"the image {pin} could not be removed: {exc.stderr.strip() or exc}") from exc
    log.info("image %s: removed%s", pin, f", although used by {', '.join(users)}" if users else "")
    with output_errors_mapped(SCRIPT, text):
        return RemovedImage(pin=pin, bytes=int(text))


def _list(context: WorkerContext) -> tuple[dict[str, ImageRow], int | None]:
    """Return the images by pin, and the free bytes of their folder."""
    output = run_script(context, SCRIPT, "list", context.site.images_dir, timeout_s=LIST_TIMEOUT_S)
    with output_errors_mapped(SCRIPT, output):
        return dict(output["images"]), output["free_bytes"]


def _status(
    name: str, pin: ImagePin | None, found: Mapping[str, ImageRow] | None, context: WorkerContext
) -> ImageStatus:
    """Return one row: what the pin plans, overridden by the facts of the image."""
    planned: dict[str, str | None] = (
        {"vllm": pin.vllm, "torch": pin.torch, "cuda": pin.cuda, "min_driver": pin.min_driver} if pin else {}
    )
    planned["arch"] = pin_arch(name)
    row = (found or {}).get(name)
    facts = {key: value for key, value in (row or {}).items() if key in ImageStatus.model_fields and value is not None}
    made_at = facts.pop("made_at", None)
    return ImageStatus(
        **{
            **planned,
            "oci": pin.oci if pin else None,
            **facts,
            "pin": name,
            "known": pin is not None,
            "made_at": datetime.fromtimestamp(made_at, UTC) if made_at else None,
            "is_default": name == context.site.default_image,
            "in_site": context.site.image(name) is not None,
            "models": _models_of(name, context),
            "deployments": tuple(image_users(name, context)),
            "state": _state(pin, row, context) if found is not None else "unknown",
        }
    )


def _state(pin: ImagePin | None, row: ImageRow | None, context: WorkerContext) -> str:
    if row is None:
        return "missing"
    if pin is None:
        return "ready"
    expected = pin.recipe_sha256(recipe_files(context)["vllm.def"])
    return "ready" if row.get("recipe_sha256") == expected else "outdated"


def _models_of(name: str, context: WorkerContext) -> Sequence[str]:
    """Return the catalog's models that name the image; models without an image use the site's default."""
    return tuple(entry.alias for entry in context.catalog.entries.values() if entry.image == name)
