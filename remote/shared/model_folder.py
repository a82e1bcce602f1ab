"""Layout of models on disk, complete or partly downloaded. Python 3.6, standard library.

    <models_dir>/<org>/<name>/                    a complete model, as vLLM reads it
    <models_dir>/<org>/<name>/REVISION            its commit
    <models_dir>/<org>/<name>/.bouchet/manifest.json   commit, files, sizes and hashes
    <models_dir>/<org>/.<name>.partial/           a model being downloaded; renamed when it is complete
    <models_dir>/<org>/.<name>.partial/.bouchet/plan.json     the files that it will have
    <models_dir>/<org>/.<name>.partial/.bouchet/<hash>.part   a file being downloaded

A file gets its own name in a partial folder only after its hash was verified.
"""

import hashlib
import json
import os
import re
from typing import Any, Dict, List, Optional, Tuple

from job_files import read_text

METADATA = ".bouchet"
REVISION = "REVISION"
READ_BYTES = 1 << 20
HASH_DIGITS = {"sha1": 40, "sha256": 64}
PARTIAL = re.compile(r"^\.(.+)\.partial$")
# the same weights in formats that vLLM ignores where there are safetensors
OTHER_FORMATS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".tflite", ".mlmodel")
OTHER_FOLDERS = ("original/", "metal/", "onnx/", "openvino/", "coreml/")

# of weights in several files: the file of each tensor
INDEX = "model.safetensors.index.json"
# the longest header that the safetensors library reads
MAX_HEADER_BYTES = 100 * 1000 * 1000

Entry = Dict[str, Any]


class DamagedModelError(Exception):
    """A file of a model is damaged; the message names it."""


def model_path(models_dir: str, model: str) -> str:
    """Return the folder of a complete model."""
    return os.path.join(models_dir, *model.split("/"))


def partial_path(models_dir: str, model: str) -> str:
    """Return the folder of a model while it is being downloaded."""
    parent, name = os.path.split(model_path(models_dir, model))
    return os.path.join(parent, ".%s.partial" % name)


def manifest_path(folder: str) -> str:
    """Return the file that lists what a complete model is made of."""
    return os.path.join(folder, METADATA, "manifest.json")


def plan_path(folder: str) -> str:
    """Return the file that lists what a partly downloaded model will be made of."""
    return os.path.join(folder, METADATA, "plan.json")


def part_path(folder: str, entry: Entry) -> str:
    """Return the unfinished file of an entry; its name is the hash, so that it never continues another file."""
    return os.path.join(folder, METADATA, entry["hash"] + ".part")


def find_model(models_dir: str, model: str, wanted: Optional[str] = None) -> Tuple[str, Optional[str]]:
    """Return folder and commit (where known) of a model; ("", None) where it is missing.

    It is a plain folder or a hub cache's snapshot. wanted: the commit to prefer where a hub cache has several.
    OSError when `models_dir` cannot be read.
    """
    plain = model_path(models_dir, model)
    os.listdir(models_dir)
    if os.path.isfile(os.path.join(plain, "config.json")):
        return plain, read_text(os.path.join(plain, REVISION))
    for hub in (models_dir, os.path.join(models_dir, "hub")):
        snapshot = newest_snapshot(os.path.join(hub, "models--" + model.replace("/", "--")), wanted)
        if snapshot:
            return snapshot, os.path.basename(snapshot)
    return "", None


def find_in_folders(folders: List[str], model: str, wanted: Optional[str] = None) -> Tuple[str, Optional[str]]:
    """Return folder and commit of a model in the first directory that has it, the wanted commit before others.

    A directory that cannot be read is passed over; OSError when there is only that one.
    """
    present: List[Tuple[str, Optional[str]]] = []
    for folder in folders:
        try:
            found = find_model(folder, model, wanted)
        except OSError:
            if len(folders) == 1:
                raise
            continue
        if found[0]:
            present.append(found)
    return next((one for one in present if wanted and one[1] == wanted), present[0] if present else ("", None))


def newest_snapshot(repository: str, wanted: Optional[str] = None) -> Optional[str]:
    """Return the wanted snapshot of a hub cache, else the one of refs/main, else the newest one with a config.json."""
    main = read_text(os.path.join(repository, "refs", "main"))
    folder = os.path.join(repository, "snapshots")
    try:
        names = sorted(os.listdir(folder), key=lambda n: os.path.getmtime(os.path.join(folder, n)), reverse=True)
    except OSError:
        return None
    for name in [name for name in (wanted, main) if name in names] + names:
        if name and os.path.isfile(os.path.join(folder, name, "config.json")):
            return os.path.join(folder, name)
    return None


def files_to_serve(entries: List[Entry]) -> List[Entry]:
    """Return the files that vLLM needs: only safetensors where the same weights also come in other formats."""
    if not any(e["path"].endswith(".safetensors") and "/" not in e["path"] for e in entries):
        return list(entries)
    return [e for e in entries if not e["path"].endswith(OTHER_FORMATS) and not e["path"].startswith(OTHER_FOLDERS)]


def is_safe(path: str) -> bool:
    """Return whether a path from the hub stays in the model's folder and does not touch our metadata."""
    parts = path.split("/")
    plain = all(part not in ("", ".", "..") for part in parts) and not re.search(r"[\x00-\x1f\x7f\\]", path)
    return plain and parts[0] != METADATA


def is_hash(value: object, kind: str) -> bool:
    """Return whether a hash from the hub (kind sha1 or sha256) is one: hashes become names of files and folders."""
    return isinstance(value, str) and re.match(r"^[0-9a-f]{%d}\Z" % HASH_DIGITS[kind], value) is not None


def size_of(path: str) -> int:
    """Return the bytes of a file, 0 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def downloaded_bytes(folder: str, entries: List[Entry]) -> int:
    """Return how many bytes of these files are on disk: complete files and `.part` files."""
    total = 0
    for entry in entries:
        own = size_of(os.path.join(folder, entry["path"]))
        total += own if own == entry["size"] and own else min(size_of(part_path(folder, entry)), entry["size"])
    return total


def hash_of(path: str, kind: str) -> str:
    """Return the file's sha256, or git's blob id of it (kind `sha1`)."""
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % os.stat(path).st_size)
    with open(path, "rb") as source:
        for piece in iter(lambda: source.read(READ_BYTES), b""):
            digest.update(piece)
    return digest.hexdigest()


def folder_bytes(folder: str) -> int:
    """Return the bytes of all files below a folder."""
    return sum(size_of(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names)


def linked_folders(directory: str, known: str) -> List[str]:
    """Return the real folders that links in the directory lead to and that are not below `known`."""
    places = {os.path.dirname(os.path.realpath(os.path.join(directory, name))) for name in os.listdir(directory)}
    root = os.path.realpath(known)
    return sorted(p for p in places if p != root and not p.startswith(root + os.sep))


def is_quantized(directory: str) -> bool:
    """Return whether the checkpoint is quantized already; vLLM refuses to quantize it a second time."""
    try:
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as source:
            config = json.load(source)
        # a multimodal model has the entry in its text_config
        parts = [config, config.get("text_config") or {}]
        return any(part.get(name) for part in parts for name in ("quantization_config", "compression_config"))
    except (OSError, ValueError, AttributeError):
        return False


def find_damage(folder: str) -> str:
    """Return what is missing, truncated or unreadable in a model; empty where nothing is.

    Reads config, index and the headers of the weights: seconds at most, where vLLM would fail after minutes.
    """
    names = os.listdir(folder)
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    try:
        _load_object(os.path.join(folder, "config.json"))
        if INDEX in names and (weights or not any(name.endswith(OTHER_FORMATS) for name in names)):
            wanted = set(_load_object(os.path.join(folder, INDEX))["weight_map"].values())
            missing = sorted(wanted - set(weights))
            if missing:
                return "%d of its %d weight files are missing (%s)" % (len(missing), len(wanted), missing[0])
        for name in weights:
            path = os.path.join(folder, name)
            have, want = os.stat(path).st_size, safetensors_length(path)
            if have < want:
                return "%s is truncated: %d of %d bytes" % (name, have, want)
    except OSError as exc:
        return "%s cannot be read: %s" % (os.path.basename(exc.filename or folder), exc.strerror)
    except DamagedModelError as exc:
        return str(exc)
    return ""


def _load_object(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as source:
            found = json.load(source)
    except ValueError as exc:
        raise DamagedModelError("%s is damaged: %s" % (os.path.basename(path), exc)) from exc
    if not isinstance(found, dict):
        raise DamagedModelError("%s is damaged: it is not a JSON object" % os.path.basename(path))
    return found


def safetensors_length(path: str) -> int:
    """Return how many bytes the file should have: 8 with the header's length, the header (JSON), the tensors."""
    with open(path, "rb") as source:
        length = int.from_bytes(source.read(8), "little")
        text = source.read(length) if length <= MAX_HEADER_BYTES else b""
    if len(text) < max(length, 2):
        # the header is incomplete, so the file is longer than what was read
        return 8 + length + 1
    try:
        tensors = [row for name, row in json.loads(text.decode("utf-8")).items() if name != "__metadata__"]
        return 8 + length + max([int(row["data_offsets"][1]) for row in tensors] or [0])
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as exc:
        raise DamagedModelError("%s is damaged: its header cannot be read" % os.path.basename(path)) from exc


def purge_warning(folder: str, days: Optional[int], now: float) -> str:
    """Return a warning for weights on storage that deletes files after so many days; empty while they are young."""
    ages = [now - os.stat(os.path.join(folder, name)).st_mtime for name in os.listdir(folder)] if days else []
    oldest = int(max(ages, default=0) // 86400)
    # a week is enough time to download them again
    if not days or oldest < days - 7:
        return ""
    message = "its weights are on scratch and %d days old; files there are deleted after %d days: download them again"
    return message % (oldest, days)
