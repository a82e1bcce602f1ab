"""Which weights a folder holds: one digest over all its files, cheap enough to be made at every start.

Hashing hundreds of GiB at each start is not to be had. So the hashes of single files are taken from where somebody made
them before, and the digest says from where (`how`):

    manifest   the download's own: each file was hashed whole when it came. Holds while no file has another size than
               then, and none was written to since
    hub        the hub's cache gives each file the name of its hash (sha256 of weights, git's id of small files)
    headers    neither: configuration and tokenizer are hashed here, of weights the size and the safetensors header,
               which names every tensor, its type and its shape, and not what is in it

Standard library and Python 3.6 only.
"""

import hashlib
import os
import re
from typing import Any, Dict, Iterator, List, Optional, Tuple

from model_folder import LONGEST_HEAD, NOTES, REVISION, manifest_path, read_json

# what is larger is weights, whatever its name
LARGEST_SMALL = 64 << 20
HEAD_BYTES = 1 << 20
# the manifest is written after the last file; clocks of a file server may differ a little from a node's
CLOCKS_S = 120
BLOB = re.compile(r"^[0-9a-f]{40}([0-9a-f]{24})?$")

# path, size, hash
Row = Tuple[str, int, str]


def describe(folder: str) -> Optional[Dict[str, Any]]:
    """digest, how, files, bytes, folder. None where a file cannot be read."""
    try:
        for how, rows in (("manifest", of_manifest(folder)), ("hub", of_hub(folder))):
            if rows:
                return described(folder, how, rows)
        return described(folder, "headers", [(path, size, head_hash(folder, path)) for path, size in files_in(folder)])
    except (OSError, KeyError, TypeError, ValueError):
        return None


def described(folder: str, how: str, rows: List[Row]) -> Dict[str, Any]:
    """The rows as one digest."""
    whole = hashlib.sha256()
    for path, size, digest in sorted(rows):
        whole.update(("%s\0%d\0%s\n" % (path, size, digest)).encode("utf-8", "surrogateescape"))
    total = sum(size for _, size, _ in rows)
    return {"digest": whole.hexdigest(), "how": how, "files": len(rows), "bytes": total, "folder": folder}


def of_manifest(folder: str) -> List[Row]:
    """What the download found, nothing where there is no manifest or the files are no longer those of then."""
    manifest = read_json(manifest_path(folder))
    if not manifest:
        return []
    written = os.stat(manifest_path(folder)).st_mtime + CLOCKS_S
    rows = []  # type: List[Row]
    for entry in manifest["files"]:
        try:
            known = os.stat(os.path.join(folder, entry["path"]))
        except OSError:
            return []
        if known.st_size != entry["size"] or known.st_mtime > written:
            return []
        rows.append((entry["path"], known.st_size, entry["hash"]))
    return rows


def of_hub(folder: str) -> List[Row]:
    """The names of the blobs that a snapshot's links lead to, nothing where anything else lies there."""
    rows = []  # type: List[Row]
    for path, size in files_in(folder):
        full = os.path.join(folder, path)
        blob = os.path.basename(os.path.realpath(full))
        if not os.path.islink(full) or not BLOB.match(blob):
            return []
        rows.append((path, size, blob))
    return rows


def files_in(folder: str) -> Iterator[Tuple[str, int]]:
    """All files but our notes and hidden ones, with their sizes."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != NOTES and not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name != REVISION:
                full = os.path.join(place, name)
                yield os.path.relpath(full, folder), os.stat(full).st_size


def head_hash(folder: str, path: str) -> str:
    """Of a small file all, of safetensors the header, of other weights the first MiB."""
    with open(os.path.join(folder, path), "rb") as source:
        if path.endswith(".safetensors"):
            first = source.read(8)
            read = first + source.read(min(int.from_bytes(first, "little"), LONGEST_HEAD))
        elif os.fstat(source.fileno()).st_size > LARGEST_SMALL:
            read = source.read(HEAD_BYTES)
        else:
            read = source.read()
    return hashlib.sha256(read).hexdigest()
