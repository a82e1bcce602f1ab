"""Images as people see them: the table, and the progress of a build. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bouchet_cli.client.http import Json
from bouchet_cli.client.records import ImageJobInfo

from .screen import StyledLine, clean
from .tables import Column, binary_size, table

COLUMNS = (
    Column("PIN"),
    Column("STATE"),
    Column("VLLM", rank=1),
    Column("TORCH", rank=5),
    Column("CUDA", rank=4),
    Column("DRIVER", rank=3),
    Column("SIZE", rank=2),
    Column("SHA256", rank=6),
)
DIGEST_LENGTH = 8
STATE_STYLE = {"ready": "green", "outdated": "yellow", "missing": "dim", "unknown": "dim"}
# stage -> unit of its steps
UNITS = {"packages": "packages", "compile": "groups of files", "hash": "MiB"}


def image_lines(images: Sequence[Json], width: int) -> list[StyledLine]:
    """Return a table with a row and a note for each image."""
    notes = [_note(image) for image in images]
    styles = [STATE_STYLE.get(image["state"], "") for image in images]
    return table(COLUMNS, [_row(image) for image in images], width, notes=notes, styles=styles)


def image_job_line(job: ImageJobInfo) -> str:
    """Return state, step and progress of a build in one line."""
    counted = f": {_steps(job, ' of ')}" if job.of and job.state == "running" else ""
    return f"{job.pin} {job.state}: {clean(job.reason)}{counted}".rstrip(": ")


def image_job_bar(job: ImageJobInfo) -> dict[str, Any]:
    """Return the fields of the progress bar."""
    return {
        "description": f"{job.pin} {job.state}: {clean(job.reason)}",
        "total": job.of or None,
        "completed": job.done,
        "counts": _steps(job, "/") if job.of else "",
    }


def _steps(job: ImageJobInfo, separator: str) -> str:
    return f"{job.done}{separator}{job.of} {UNITS.get(job.stage, '')}".rstrip()


def _row(image: Json) -> tuple[str, ...]:
    size = binary_size(image["bytes"]) if image.get("bytes") else "-"
    driver = f">={image['min_driver']}" if image.get("min_driver") else "-"
    # the local version (`+cpu`, `+cu130`) repeats the CUDA column
    versions = [str(image.get(name) or "-").partition("+")[0] for name in ("vllm", "torch", "cuda")]
    digest = (image.get("sha256") or "-")[:DIGEST_LENGTH]
    return (image["pin"], image["state"], *versions, driver, size, digest)


def _note(image: Json) -> str:
    """Return who uses the image, and what is unusual about it."""
    notes = []
    if image.get("deployments"):
        notes.append(f"used by {', '.join(image['deployments'])}")
    if image.get("is_default"):
        notes.append("default image of the site")
    elif not image.get("in_site"):
        notes.append("not in the site file, so launches do not use it")
    if image.get("models"):
        notes.append(f"for {', '.join(image['models'])}")
    if not image.get("known", True):
        notes.append("there is no pin of this name")
    if image["state"] == "outdated":
        notes.append("built from an older recipe; rebuild it with `bouchet image build`")
    if image.get("oci"):
        notes.append(f"based on {image['oci']}")
    return "; ".join(notes)
