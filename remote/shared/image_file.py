"""An image (SIF) on the cluster and its records: recorded hash, manifest, hash notes. Python 3.6, standard library.

PIN.sif             the image
PIN.sif.sha256      its hash, as `sha256sum` prints it
PIN.manifest.json   what is in it (apptainer/manifest.py)
<root>/cache/hashes/<inode>-<size>-<mtime>-<ctime>   the hash that a job computed of exactly that file
"""

import hashlib
import os
import re
from typing import Any, Callable, Dict, Optional

from job_files import JobRefusedError, Spec, read_json, read_text, remove_if_exists, write_whole

READ_BYTES = 1 << 20
SHA256 = re.compile(r"^[0-9a-fA-F]{64}$")


def recorded_hash(image: str) -> Optional[str]:
    """Return the sha256 recorded in IMAGE.sha256, None where there is none."""
    try:
        with open(image + ".sha256", encoding="ascii", errors="replace") as source:
            fields = source.read(200).split()
    except OSError:
        return None
    return fields[0].lower() if fields and SHA256.match(fields[0]) else None


def pinned_hash(spec: Spec) -> str:
    """Return the sha256 that the image must have: the site file's, else the recorded one. Or raise JobRefusedError."""
    if spec.get("image_sha256"):
        return str(spec["image_sha256"]).lower()
    found = recorded_hash(spec["image"])
    if found is None:
        message = "no hash is recorded for the image: %s.sha256 is missing or is not a sha256; build or verify it again"
        raise JobRefusedError(message % spec["image"])
    return found


def check_image(spec: Spec) -> str:
    """Return the image's sha256, or raise JobRefusedError when it is not the pinned one.

    The hash is computed once, and again after any change of the file or of its inode.
    """
    try:
        known = os.stat(spec["image"])
    except FileNotFoundError as exc:
        raise JobRefusedError("there is no image %s; build it with `bouchet image build`" % spec["image"]) from exc
    wanted = pinned_hash(spec)
    found = read_text(hash_note(spec["root"], known))
    if found is None:
        found = sha256_of(spec["image"])
        note_hash(spec["root"], known, found)
    if found != wanted:
        message = "the image %s is not the pinned one: its sha256 is %s..., expected %s...; build it again"
        raise JobRefusedError(message % (spec["image"], found[:12], wanted[:12]))
    return found


def hash_note(root: str, known: os.stat_result) -> str:
    """Return where the hash of that very file is noted."""
    return os.path.join(root, "cache", "hashes", hash_note_name(known))


def hash_note_name(known: os.stat_result) -> str:
    """Return the name of the note of a file in exactly this state.

    Whoever writes to a file can put its modification time back, but not the time of its last change of status (ctime).
    """
    return "%d-%d-%d-%d" % (known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns)


def note_hash(root: str, known: os.stat_result, digest: str) -> None:
    """Note a computed hash, so that the next job need not compute it."""
    path = hash_note(root, known)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    remove_if_exists(path)
    write_whole(path, digest + "\n")


def sha256_of(path: str, on_read: Optional[Callable[[int], None]] = None) -> str:
    """Return a file's sha256 in hex. on_read: called with the bytes read so far."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as source:
        for piece in iter(lambda: source.read(READ_BYTES), b""):
            digest.update(piece)
            size += len(piece)
            if on_read is not None:
                on_read(size)
    return digest.hexdigest()


def read_manifest(image: str) -> Dict[str, Any]:
    """Return the image's manifest, empty where there is none."""
    return read_json(re.sub(r"\.sif$", "", image) + ".manifest.json") or {}
