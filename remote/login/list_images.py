"""Lists and removes images on the login node: `python3 list_images.py COMMAND IMAGES_DIR ...`. Python 3.6.

list IMAGES_DIR           print {"free_bytes", "images": {pin: {...}}} as JSON
remove IMAGES_DIR PIN     remove an image with its records; print its size in bytes
"""

import contextlib
import fcntl
import json
import os
import re
import sys
from typing import Any, Dict, Iterator, Optional

from image_file import read_manifest, recorded_hash
from job_files import Commands, JobRefusedError, remove_if_exists, run_command

PIN = re.compile(r"^[a-z0-9][a-z0-9.-]*$")
FACTS = (
    "recipe_sha256",
    "lock_sha256",
    "vllm",
    "torch",
    "cuda",
    "min_driver",
    "python",
    "oci",
    "oci_manifest",
    "commit",
)


def list_images(images_dir: str) -> None:
    """Print all images; an image is a file named by a pin."""
    folder = os.path.expanduser(images_dir)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        names = []
    pins = [name[: -len(".sif")] for name in names if name.endswith(".sif")]
    images = {pin: describe_image(folder, pin) for pin in pins if PIN.match(pin)}
    print(json.dumps({"free_bytes": _free_bytes(folder), "images": images}))


def describe_image(folder: str, pin: str) -> Dict[str, Any]:
    """Return size, time, recorded hash, and the facts of the manifest if that belongs to the recorded hash."""
    path = os.path.join(folder, pin + ".sif")
    manifest, digest = read_manifest(path), recorded_hash(path)
    own = manifest if digest and manifest.get("sif_sha256") == digest else {}
    known = os.stat(path)
    row: Dict[str, Any] = {"bytes": known.st_size, "made_at": int(known.st_mtime), "sha256": digest}
    row.update({name: own.get(name) for name in FACTS})
    return row


def remove(images_dir: str, pin: str) -> None:
    """Remove an image, then its records: records without an image are harmless."""
    folder = os.path.expanduser(images_dir)
    path = os.path.join(folder, pin + ".sif")
    if not PIN.match(pin) or not os.path.isfile(path):
        raise JobRefusedError("there is no image %s" % path)
    size = os.path.getsize(path)
    with _build_lock(os.path.join(folder, ".%s.lock" % pin), pin):
        for name in (pin + ".sif", pin + ".sif.sha256", pin + ".manifest.json", ".%s.lock" % pin):
            remove_if_exists(os.path.join(folder, name))
    print(size)


@contextlib.contextmanager
def _build_lock(path: str, pin: str) -> Iterator[None]:
    """Hold the lock of build.sh. JobRefusedError while a build holds it."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            message = "%s is being built; wait for it, or end it with `bouchet image build %s --cancel`"
            raise JobRefusedError(message % (pin, pin)) from exc
        except OSError:
            pass  # a file system without locks
        yield


def _free_bytes(folder: str) -> Optional[int]:
    try:
        known = os.statvfs(folder)
    except OSError:
        return None
    return known.f_bavail * known.f_frsize


COMMANDS: Commands = {"list": list_images, "remove": remove}


if __name__ == "__main__":
    sys.exit(run_command(sys.argv, COMMANDS))
