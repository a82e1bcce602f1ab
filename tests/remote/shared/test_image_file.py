"""The kept hash of an image: computed once, and again after any change of the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_file
import pytest
from job_files import JobRefusedError

from tests.remote.compute_node import write_image

CONTENT = b"an image"
CHANGED = b"AN IMAGE"


def write_in_place(image: Path) -> None:
    """Write other content of the same size, and put the modification time back."""
    known = image.stat()
    with image.open("r+b") as target:
        target.write(CHANGED)
    # the clock of a file system ticks every few milliseconds
    while image.stat().st_ctime_ns == known.st_ctime_ns or image.stat().st_mtime_ns != known.st_mtime_ns:
        os.utime(image, ns=(known.st_atime_ns, known.st_mtime_ns))


def replace(image: Path) -> None:
    """Put another file of the same size and modification time in its place."""
    known = image.stat()
    other = image.with_name("other")
    other.write_bytes(CHANGED)
    os.utime(other, ns=(known.st_atime_ns, known.st_mtime_ns))
    other.replace(image)


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    """Return the spec of a job whose image has been hashed once."""
    image = write_image(tmp_path / "pin.sif", CONTENT)
    spec = {"root": str(tmp_path), "image": str(image), "image_sha256": None}
    image_file.check_image(spec)
    return spec


def test_check_image_takes_kept_hash_of_unchanged_file(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(image_file, "sha256_of")
    assert len(image_file.check_image(spec)) == 64


@pytest.mark.parametrize("change", [write_in_place, replace])
@pytest.mark.parametrize("is_pinned_by_site", [False, True])
def test_check_image_of_changed_file_with_old_time_is_refused(
    spec: dict[str, Any], change: Callable[[Path], None], is_pinned_by_site: bool
) -> None:
    if is_pinned_by_site:
        spec["image_sha256"] = image_file.recorded_hash(spec["image"])
    change(Path(spec["image"]))
    with pytest.raises(JobRefusedError, match="is not the pinned one"):
        image_file.check_image(spec)
