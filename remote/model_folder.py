"""How a model lies on disk, whole or half fetched. Standard library and Python 3.6 only.

    <models_dir>/<org>/<name>/                    a whole model, as vLLM reads it
    <models_dir>/<org>/<name>/REVISION            its commit
    <models_dir>/<org>/<name>/.bouchet/manifest.json   commit, files, sizes and hashes
    <models_dir>/<org>/.<name>.partial/           one that is being fetched; renamed when it is whole
    <models_dir>/<org>/.<name>.partial/.bouchet/plan.json     what it will hold
    <models_dir>/<org>/.<name>.partial/.bouchet/<hash>.part   a file that is coming

A file has its own name in a half-fetched folder only after its hash was found right.
"""

import hashlib
import json
import os
import re
from typing import Any, Dict, List, Optional, Tuple

NOTES = ".bouchet"
REVISION = "REVISION"
READ_BYTES = 1 << 20
PARTIAL = re.compile(r"^\.(.+)\.partial$")
# the same weights in other forms, which vLLM does not read where safetensors lie
OTHER_FORMS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".tflite", ".mlmodel")
OTHER_FOLDERS = ("original/", "metal/", "onnx/", "openvino/", "coreml/")

Entry = Dict[str, Any]


def whole_folder(models_dir: str, model: str) -> str:
    """Where the model lies when it is whole."""
    return os.path.join(models_dir, *model.split("/"))


def partial_folder(models_dir: str, model: str) -> str:
    """Where it lies while it comes."""
    head, name = os.path.split(whole_folder(models_dir, model))
    return os.path.join(head, ".%s.partial" % name)


def manifest_path(folder: str) -> str:
    """What a whole model is made of."""
    return os.path.join(folder, NOTES, "manifest.json")


def plan_path(folder: str) -> str:
    """What a half-fetched model will be made of."""
    return os.path.join(folder, NOTES, "plan.json")


def part_path(folder: str, entry: Entry) -> str:
    """The piece of a file that has come so far; named by the hash, so it never continues another file."""
    return os.path.join(folder, NOTES, entry["hash"] + ".part")


def read_json(path: str) -> Optional[Dict[str, Any]]:
    """The document, None where there is none that can be read."""
    try:
        with open(path, encoding="utf-8") as source:
            found = json.load(source)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def wanted_of(entries: List[Entry]) -> List[Entry]:
    """The files that serving needs: safetensors alone where the same weights also lie there in other forms."""
    if not any(e["path"].endswith(".safetensors") and "/" not in e["path"] for e in entries):
        return list(entries)
    return [e for e in entries if not e["path"].endswith(OTHER_FORMS) and not e["path"].startswith(OTHER_FOLDERS)]


def is_safe(path: str) -> bool:
    """Whether a name from the hub stays inside the model's folder and apart from our own notes."""
    parts = path.split("/")
    plain = all(part not in ("", ".", "..") for part in parts) and not re.search(r"[\x00-\x1f\x7f\\]", path)
    return plain and parts[0] != NOTES


def size_of(path: str) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def kept_bytes(folder: str, entries: List[Entry]) -> int:
    """How much of these files has come: whole ones and pieces."""
    kept = 0
    for entry in entries:
        own = size_of(os.path.join(folder, entry["path"]))
        kept += own if own == entry["size"] and own else min(size_of(part_path(folder, entry)), entry["size"])
    return kept


def hash_of(path: str, kind: str) -> str:
    """The file's sha256, or git's id of it (`sha1`)."""
    whole = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % os.stat(path).st_size)
    with open(path, "rb") as source:
        for piece in iter(lambda: source.read(READ_BYTES), b""):
            whole.update(piece)
    return whole.hexdigest()


def folder_bytes(folder: str) -> Tuple[int, int]:
    """Bytes and number of all files below a folder."""
    total = count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            total += size_of(os.path.join(place, name))
            count += 1
    return total, count


def outside(directory: str, known: str) -> List[str]:
    """Real folders that files of the directory lead to and that are not below `known`."""
    places = {os.path.dirname(os.path.realpath(os.path.join(directory, name))) for name in os.listdir(directory)}
    root = os.path.realpath(known)
    return sorted(p for p in places if p != root and not p.startswith(root + os.sep))


def is_quantised(directory: str) -> bool:
    """Whether the checkpoint brings its own quantisation; vLLM refuses to quantise it again."""
    try:
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as source:
            return bool(json.load(source).get("quantization_config"))
    except (OSError, ValueError, AttributeError):
        return False


def purge_words(folder: str, days: Optional[int], now: float) -> str:
    """What to say of weights that lie where files are deleted after so many days; nothing while they are young."""
    ages = [now - os.stat(os.path.join(folder, name)).st_mtime for name in os.listdir(folder)] if days else []
    oldest = int(max(ages, default=0) // 86400)
    # a week is time enough to do something about it
    if not days or oldest < days - 7:
        return ""
    words = "its weights lie on scratch and are %d days old; files there are deleted after %d days: fetch them again"
    return words % (oldest, days)
