"""The digest of a model's files, cheap enough for every start. Python 3.6, standard library.

Hashing hundreds of GiB at each start takes too long. So the hashes of single files are taken from where they were
computed before, and the field `how` names that source:

    manifest   our own download verified each file. Valid while no file has another size or was written to since
    hub        the hub's cache names each file by its hash (sha256 of weights, git's id of small files)
    headers    neither: config and tokenizer are hashed here, of weights the size and the safetensors header,
               which has the name, type and shape of each tensor, but not its values
"""

import hashlib
import os
import re
from typing import Any, Dict, Iterator, List, Optional, Tuple

from job_files import read_json
from model_folder import MAX_HEADER_BYTES, METADATA, REVISION, manifest_path

# larger files are weights, whatever their names
MAX_SMALL_FILE_BYTES = 64 << 20
PREFIX_BYTES = 1 << 20
# the manifest is written after the last file; a file server's clock may differ a little from a node's
CLOCK_DIFFERENCE_S = 120
BLOB = re.compile(r"^[0-9a-f]{40}([0-9a-f]{24})?$")

# path, size, hash
Row = Tuple[str, int, str]


def describe_weights(folder: str) -> Optional[Dict[str, Any]]:
    """Return digest, how, files, bytes and folder of a model; None where a file cannot be read."""
    try:
        for how, rows in (("manifest", _rows_of_manifest(folder)), ("hub", _rows_of_hub_cache(folder))):
            if rows:
                return _summarize(folder, how, rows)
        rows = [(path, size, _header_hash(folder, path)) for path, size in _files(folder)]
        return _summarize(folder, "headers", rows)
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _summarize(folder: str, how: str, rows: List[Row]) -> Dict[str, Any]:
    digest = hashlib.sha256()
    for path, size, file_hash in sorted(rows):
        digest.update(("%s\0%d\0%s\n" % (path, size, file_hash)).encode("utf-8", "surrogateescape"))
    total = sum(size for _, size, _ in rows)
    return {"digest": digest.hexdigest(), "how": how, "files": len(rows), "bytes": total, "folder": folder}


def _rows_of_manifest(folder: str) -> List[Row]:
    """Return the hashes of our download; nothing where there is no manifest or a file has changed since."""
    manifest = read_json(manifest_path(folder))
    if not manifest:
        return []
    written = os.stat(manifest_path(folder)).st_mtime + CLOCK_DIFFERENCE_S
    rows: List[Row] = []
    for entry in manifest["files"]:
        try:
            known = os.stat(os.path.join(folder, entry["path"]))
        except OSError:
            return []
        if known.st_size != entry["size"] or known.st_mtime > written:
            return []
        rows.append((entry["path"], known.st_size, entry["hash"]))
    return rows


def _rows_of_hub_cache(folder: str) -> List[Row]:
    """Return the blob names that the snapshot's links lead to; nothing where any file is not such a link."""
    rows: List[Row] = []
    for path, size in _files(folder):
        full = os.path.join(folder, path)
        blob = os.path.basename(os.path.realpath(full))
        if not os.path.islink(full) or not BLOB.match(blob):
            return []
        rows.append((path, size, blob))
    return rows


def _files(folder: str) -> Iterator[Tuple[str, int]]:
    """Yield path and size of all files but our metadata and hidden ones."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != METADATA and not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name != REVISION:
                full = os.path.join(place, name)
                yield os.path.relpath(full, folder), os.stat(full).st_size


def _header_hash(folder: str, path: str) -> str:
    """Hash all of a small file, the header of safetensors, the first MiB of other weights."""
    with open(os.path.join(folder, path), "rb") as source:
        if path.endswith(".safetensors"):
            prefix = source.read(8)
            content = prefix + source.read(min(int.from_bytes(prefix, "little"), MAX_HEADER_BYTES))
        elif os.fstat(source.fileno()).st_size > MAX_SMALL_FILE_BYTES:
            content = source.read(PREFIX_BYTES)
        else:
            content = source.read()
    return hashlib.sha256(content).hexdigest()
