"""Architecture and tensors of a model on the cluster: `python3 inspect_model.py MODELS_DIR MODEL [SHARED_DIR...]`.

Prints JSON:
{"config": its config.json without long lists, "tensors": [[name, type, rank, bytes], ...] or null, "revision": commit}
or {} where the model is missing. Reads headers only.

Tensors whose names differ only in numbers are one row: numbers are `*`, and `+` is a layer beyond the model's own last
one (multi-token prediction). Python 3.6, standard library.
"""

import json
import os
import re
import struct
import sys
from typing import Any, Dict, List, Optional

from job_files import read_json
from model_folder import INDEX, find_in_folders

LAYER = re.compile(r"^(?:model\.|language_model\.)*layers\.(\d+)\.")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# a longer length in the first eight bytes means that the file is not safetensors
MAX_HEADER_BYTES = 1 << 28
MAX_LIST_LENGTH = 512
MAX_DEPTH = 32

TensorRow = List[Any]


def inspect_model(models_dir: str, model: str, *shared: str) -> Dict[str, Any]:
    """Return config, tensors and commit; empty where the model is missing."""
    folder, revision = find_in_folders([os.path.expanduser(path) for path in (models_dir, *shared)], model)
    if not folder:
        return {}
    config = read_json(os.path.join(folder, "config.json")) or {}
    text = config.get("text_config")
    layers = (text if isinstance(text, dict) else config).get("num_hidden_layers")
    try:
        tensors: Optional[List[TensorRow]] = tensor_rows(folder, layers if isinstance(layers, int) else None)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        tensors = None
    return {"config": drop_long_lists(config), "tensors": tensors or None, "revision": revision}


def list_shards(folder: str) -> List[str]:
    """Return the weight files: those in the index, else all but a second copy of the same weights."""
    index = read_json(os.path.join(folder, INDEX))
    if index:
        return sorted(set(index["weight_map"].values()))
    found = [name for name in os.listdir(folder) if name.endswith(".safetensors")]
    return sorted(name for name in found if not name.startswith("consolidated"))


def tensor_rows(folder: str, layers: Optional[int]) -> List[TensorRow]:
    """Return all tensors, grouped by pattern. OSError or ValueError where a file is not safetensors."""
    found: Dict[Any, int] = {}
    for shard in list_shards(folder):
        for name, entry in read_header(os.path.join(folder, shard)).items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            key = (name_pattern(name, layers), entry["dtype"], len(entry["shape"]))
            found[key] = found.get(key, 0) + end - begin
    return [[name, kind, rank, size] for (name, kind, rank), size in sorted(found.items())]


def name_pattern(name: str, layers: Optional[int]) -> str:
    """Return the name with its numbers replaced."""
    own = LAYER.match(name)
    if own and layers is not None and int(own.group(1)) >= layers:
        name = name[: own.start(1)] + "+" + name[own.end(1) :]
    return NUMBER.sub("*", name)


def read_header(path: str) -> Dict[str, Any]:
    """Return the header of a safetensors file."""
    with open(path, "rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError("not a safetensors file: %s" % path)
        found = json.loads(source.read(length).decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError("not a safetensors file: %s" % path)
    return found


def drop_long_lists(value: Any, depth: int = 0) -> Any:
    """Return a JSON value without long lists, such as those of layers that are not quantized, and no deeper than any.

    No config.json is nested deeper than a few levels; one that is would end a program that follows it.
    """
    if isinstance(value, (dict, list)) and depth > MAX_DEPTH:
        return None
    if isinstance(value, dict):
        short = {k: item for k, item in value.items() if not (isinstance(item, list) and len(item) > MAX_LIST_LENGTH)}
        return {key: drop_long_lists(item, depth + 1) for key, item in short.items()}
    if isinstance(value, list):
        return [drop_long_lists(item, depth + 1) for item in value]
    return value


if __name__ == "__main__":
    json.dump(inspect_model(*sys.argv[1:]), sys.stdout)
