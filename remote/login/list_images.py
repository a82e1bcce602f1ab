"""The images that lie on the cluster, for the login node: `python3 list_images.py COMMAND IMAGES_DIR ...`. Python 3.6.

list IMAGES_DIR           prints {"free_bytes", "images": {pin: {...}}} as JSON
remove IMAGES_DIR PIN     removes an image with its records; prints its size in bytes
"""

import json
import os
import re
import sys
from typing import Any, Dict, Optional

from job_files import Refused, main
from model_folder import read_json

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


def look(images_dir: str) -> None:
    """Prints what there is; an image is one file that bears a pin's name."""
    folder = os.path.expanduser(images_dir)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        names = []
    pins = [name[: -len(".sif")] for name in names if name.endswith(".sif")]
    there = {pin: row_of(folder, pin) for pin in pins if PIN.match(pin)}
    print(json.dumps({"free_bytes": _free_bytes(folder), "images": there}))


def row_of(folder: str, pin: str) -> Dict[str, Any]:
    """One image. sha256: as recorded; facts as its manifest has them, where that is of this very image."""
    path = os.path.join(folder, pin + ".sif")
    manifest = read_json(os.path.join(folder, pin + ".manifest.json")) or {}
    digest = _recorded(path + ".sha256")
    own = manifest if digest and manifest.get("sif_sha256") == digest else {}
    found = os.stat(path)
    row = {"bytes": found.st_size, "made_at": int(found.st_mtime), "sha256": digest}  # type: Dict[str, Any]
    row.update({name: own.get(name) for name in FACTS})
    return row


def remove(images_dir: str, pin: str) -> None:
    """The image first: a record without an image misleads nobody."""
    folder = os.path.expanduser(images_dir)
    path = os.path.join(folder, pin + ".sif")
    if not PIN.match(pin) or not os.path.isfile(path):
        raise Refused("there is no image %s" % path)
    size = os.path.getsize(path)
    for name in (pin + ".sif", pin + ".sif.sha256", pin + ".manifest.json", ".%s.lock" % pin):
        try:
            os.remove(os.path.join(folder, name))
        except FileNotFoundError:
            pass
    print(size)


def _recorded(path: str) -> Optional[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as source:
            words = source.read().split()
    except OSError:
        return None
    return words[0].lower() if words and re.match(r"^[0-9a-fA-F]{64}$", words[0]) else None


def _free_bytes(folder: str) -> Optional[int]:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


COMMANDS = {"list": look, "remove": remove}


if __name__ == "__main__":
    sys.exit(main(sys.argv, COMMANDS))
