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

# of weights in several files: which tensor lies in which
INDEX = "model.safetensors.index.json"
# safetensors itself reads none that is longer
LONGEST_HEAD = 100 * 1000 * 1000

Entry = Dict[str, Any]


class Damaged(Exception):
    """A file of a model is not what it should be; the message names it."""


def whole_folder(models_dir: str, model: str) -> str:
    """Where the model lies when it is whole."""
    return os.path.join(models_dir, *model.split("/"))


def partial_folder(models_dir: str, model: str) -> str:
    """Where it lies while it comes."""
    head, name = os.path.split(whole_folder(models_dir, model))
    return os.path.join(head, ".%s.partial" % name)


def find(models_dir: str, model: str, wanted: Optional[str] = None) -> Tuple[str, Optional[str]]:
    """Where it lies, and its commit where known: a plain folder, or a hub cache's snapshot; ("", None) where it is not.

    wanted: the commit to prefer where a hub cache has several. OSError when the folder of all models cannot be read.
    """
    plain = whole_folder(models_dir, model)
    os.listdir(models_dir)
    if os.path.isfile(os.path.join(plain, "config.json")):
        return plain, read_note(os.path.join(plain, REVISION))
    for hub in (models_dir, os.path.join(models_dir, "hub")):
        snapshot = newest_snapshot(os.path.join(hub, "models--" + model.replace("/", "--")), wanted)
        if snapshot:
            return snapshot, os.path.basename(snapshot)
    return "", None


def newest_snapshot(repository: str, wanted: Optional[str] = None) -> Optional[str]:
    """The snapshot that is wanted, else that refs/main names, else the newest one that has a config.json."""
    main = read_note(os.path.join(repository, "refs", "main"))
    folder = os.path.join(repository, "snapshots")
    try:
        names = sorted(os.listdir(folder), key=lambda n: os.path.getmtime(os.path.join(folder, n)), reverse=True)
    except OSError:
        return None
    for name in [name for name in (wanted, main) if name in names] + names:
        if name and os.path.isfile(os.path.join(folder, name, "config.json")):
            return os.path.join(folder, name)
    return None


def manifest_path(folder: str) -> str:
    """What a whole model is made of."""
    return os.path.join(folder, NOTES, "manifest.json")


def plan_path(folder: str) -> str:
    """What a half-fetched model will be made of."""
    return os.path.join(folder, NOTES, "plan.json")


def part_path(folder: str, entry: Entry) -> str:
    """The piece of a file that has come so far; named by the hash, so it never continues another file."""
    return os.path.join(folder, NOTES, entry["hash"] + ".part")


def read_note(path: str) -> Optional[str]:
    """What a file of one line holds, None where there is none."""
    try:
        with open(path, encoding="ascii") as source:
            return source.read().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


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
            config = json.load(source)
        # a model that also sees says it of its language part
        parts = [config, config.get("text_config") or {}]
        return any(part.get(name) for part in parts for name in ("quantization_config", "compression_config"))
    except (OSError, ValueError, AttributeError):
        return False


def flaw_in(folder: str) -> str:
    """What of a model is missing, cut off or not to be read, in words; empty where nothing is.

    Reads config, index and the heads of the weights: seconds at most, where vLLM would find out after minutes.
    """
    names = os.listdir(folder)
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    try:
        _document(os.path.join(folder, "config.json"))
        if INDEX in names and (weights or not any(name.endswith(OTHER_FORMS) for name in names)):
            wanted = set(_document(os.path.join(folder, INDEX))["weight_map"].values())
            missing = sorted(wanted - set(weights))
            if missing:
                return "%d of its %d weight files are missing (%s)" % (len(missing), len(wanted), missing[0])
        for name in weights:
            path = os.path.join(folder, name)
            have, want = os.stat(path).st_size, safetensors_length(path)
            if have < want:
                return "%s is cut off: %d of %d bytes" % (name, have, want)
    except OSError as exc:
        return "%s cannot be read: %s" % (os.path.basename(exc.filename or folder), exc.strerror)
    except Damaged as exc:
        return str(exc)
    return ""


def _document(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as source:
            found = json.load(source)
    except ValueError as exc:
        raise Damaged("%s is broken: %s" % (os.path.basename(path), exc)) from exc
    if not isinstance(found, dict):
        raise Damaged("%s is broken: it holds no object" % os.path.basename(path))
    return found


def safetensors_length(path: str) -> int:
    """How long the file says that it is: eight bytes with the head's length, the head (JSON), the tensors."""
    with open(path, "rb") as source:
        length = int.from_bytes(source.read(8), "little")
        text = source.read(length) if length <= LONGEST_HEAD else b""
    if len(text) < max(length, 2):
        # the tensors' places are not known
        return 8 + length + 1
    try:
        tensors = [row for name, row in json.loads(text.decode("utf-8")).items() if name != "__metadata__"]
        return 8 + length + max([int(row["data_offsets"][1]) for row in tensors] or [0])
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as exc:
        raise Damaged("%s is broken: its head cannot be read" % os.path.basename(path)) from exc


def purge_words(folder: str, days: Optional[int], now: float) -> str:
    """What to say of weights that lie where files are deleted after so many days; nothing while they are young."""
    ages = [now - os.stat(os.path.join(folder, name)).st_mtime for name in os.listdir(folder)] if days else []
    oldest = int(max(ages, default=0) // 86400)
    # a week is time enough to do something about it
    if not days or oldest < days - 7:
        return ""
    words = "its weights lie on scratch and are %d days old; files there are deleted after %d days: fetch them again"
    return words % (oldest, days)
