"""Images as people read them: a table, and how far a build is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bouchet_cli.client.records import ImageJob, Json

from .line import Line, clean
from .models import in_bytes
from .tables import table

HEAD = ("PIN", "STATE", "VLLM", "TORCH", "CUDA", "DRIVER", "SIZE", "SHA256")
SHORT = 8
STYLES = {"ready": "green", "outdated": "yellow", "missing": "dim", "unknown": "dim"}
# of what a stage counts
UNITS = {"packages": "packages", "compile": "portions of files", "hash": "MiB"}


def images_lines(images: Sequence[Json], width: int) -> list[Line]:
    """A row and a note for each."""
    notes = [note_of(image) for image in images]
    styles = [STYLES.get(image["state"], "") for image in images]
    return table(HEAD, [row_of(image) for image in images], width, notes=notes, styles=styles)


def row_of(image: Json) -> tuple[str, ...]:
    """One image; what is not known is a dash."""
    size = in_bytes(image["bytes"]) if image.get("bytes") else "-"
    driver = f">={image['min_driver']}" if image.get("min_driver") else "-"
    # `+cpu` and the like is what CUDA says
    versions = [str(image.get(name) or "-").partition("+")[0] for name in ("vllm", "torch", "cuda")]
    return (image["pin"], image["state"], *versions, driver, size, (image.get("sha256") or "-")[:SHORT])


def note_of(image: Json) -> str:
    """Who uses it, and what is odd about it."""
    said = []
    if image.get("deployments"):
        said.append(f"serves {', '.join(image['deployments'])}")
    if image.get("is_default"):
        said.append("the site's default")
    elif not image.get("in_site"):
        said.append("not in the site file, so no launch takes it")
    if image.get("models"):
        said.append(f"for {', '.join(image['models'])}")
    if not image.get("known", True):
        said.append("no pin of this name")
    if image["state"] == "outdated":
        said.append("made from an older recipe: `bouchet image build` renews it")
    if image.get("oci"):
        said.append(f"from {image['oci']}")
    return "; ".join(said)


def summary_of(job: ImageJob) -> str:
    """What it does and how far it is, in one line."""
    counted = (
        f": {job.done} of {job.of} {UNITS.get(job.stage, '')}".rstrip() if job.of and job.state == "running" else ""
    )
    return f"{job.pin} {job.state}: {clean(job.reason)}{counted}".rstrip(": ")


def bar_of(job: ImageJob) -> dict[str, Any]:
    """Where rich's bar stands, and the words beside it."""
    return {
        "description": f"{job.pin} {job.state}: {clean(job.reason)}",
        "total": job.of or None,
        "completed": job.done,
        "counts": f"{job.done}/{job.of} {UNITS.get(job.stage, '')}".rstrip() if job.of else "",
    }
