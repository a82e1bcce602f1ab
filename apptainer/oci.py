"""An OCI archive (a tar of an OCI layout), looked at before an image is made from it. Python 3.6, standard library.

usage: oci.py check ARCHIVE DIGEST

Fails with a sentence unless the archive holds the image of that digest, undamaged. A digest names all that is in an
image: the index or manifest of that hash names the blobs by theirs.
"""

import hashlib
import json
import sys
import tarfile

READ_BYTES = 1 << 20


class Wrong(Exception):
    """The archive is not that image."""


def check(path: str, digest: str) -> None:
    """Raises Wrong."""
    try:
        with tarfile.open(path) as archive:
            index = json.loads(_read(archive, "index.json"))
            there = [entry["digest"] for entry in index["manifests"]]
            if digest not in there:
                raise Wrong(f"{path} holds the image {' and '.join(there)}, the pin names {digest}")
            _check_blob(archive, digest)
    except (OSError, tarfile.TarError, KeyError, ValueError) as exc:
        raise Wrong(f"{path} cannot be read as an OCI archive: {exc}") from exc


def _read(archive: tarfile.TarFile, name: str) -> str:
    source = archive.extractfile(name)
    return source.read().decode("utf-8") if source else ""


def _check_blob(archive: tarfile.TarFile, digest: str) -> None:
    """A blob, and those that it names."""
    member = archive.getmember("blobs/" + digest.replace(":", "/"))
    whole = hashlib.sha256()
    source = archive.extractfile(member)
    assert source is not None
    small = b""
    for piece in iter(lambda: source.read(READ_BYTES), b""):
        whole.update(piece)
        small = small + piece if len(small) < READ_BYTES else small
    if "sha256:" + whole.hexdigest() != digest:
        raise Wrong(f"the archive's blob {digest} is damaged")
    for named in _named_in(small):
        _check_blob(archive, named)


def _named_in(blob: bytes) -> "list[str]":
    """The digests of config, layers and manifests, where the blob is a manifest or an index."""
    try:
        document = json.loads(blob.decode("utf-8"))
    except (UnicodeDecodeError, ValueError):
        return []
    if not isinstance(document, dict) or "schemaVersion" not in document:
        return []
    parts = document.get("manifests", []) + document.get("layers", []) + [document.get("config")]
    return [part["digest"] for part in parts if part]


if __name__ == "__main__":
    try:
        check(sys.argv[2], sys.argv[3])
    except Wrong as exc:
        sys.exit(f"bouchet: refused {exc}")
