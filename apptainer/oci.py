"""Check an OCI archive (a tar of an OCI layout) before an image is built from it. Python 3.6, standard library.

usage: oci.py check ARCHIVE DIGEST

Fails with a message unless the archive holds the image of that digest, undamaged. The digest covers everything in an
image: the index or manifest with that hash names the other blobs by their hashes.
"""

import hashlib
import json
import sys
import tarfile

READ_BYTES = 1 << 20


class WrongArchiveError(Exception):
    """The archive is not that image, or is damaged."""


def check(path: str, digest: str) -> None:
    """Raise WrongArchiveError unless the archive holds that image."""
    try:
        with tarfile.open(path) as archive:
            index = json.loads(_read(archive, "index.json"))
            found = [entry["digest"] for entry in index["manifests"]]
            if digest not in found:
                raise WrongArchiveError(f"{path} holds the image {' and '.join(found)}, but the pin names {digest}")
            _check_blob(archive, digest)
    except (OSError, tarfile.TarError, KeyError, ValueError) as exc:
        raise WrongArchiveError(f"{path} cannot be read as an OCI archive: {exc}") from exc


def _read(archive: tarfile.TarFile, name: str) -> str:
    source = archive.extractfile(name)
    return source.read().decode("utf-8") if source else ""


def _check_blob(archive: tarfile.TarFile, digest: str) -> None:
    """Check a blob and those that it names."""
    member = archive.getmember("blobs/" + digest.replace(":", "/"))
    found = hashlib.sha256()
    source = archive.extractfile(member)
    assert source is not None
    content = b""
    for piece in iter(lambda: source.read(READ_BYTES), b""):
        found.update(piece)
        content = content + piece if len(content) < READ_BYTES else content
    if "sha256:" + found.hexdigest() != digest:
        raise WrongArchiveError(f"the archive's blob {digest} is damaged")
    for named in _digests_in(content):
        _check_blob(archive, named)


def _digests_in(blob: bytes) -> "list[str]":
    """Return the digests of config, layers and manifests, if the blob is a manifest or an index."""
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
    except WrongArchiveError as exc:
        sys.exit(f"bouchet: refused {exc}")
