"""What a model on the cluster is made of: `python3 inspect_model.py MODELS_DIR MODEL` prints JSON. Reads headers only.

{"config": its config.json without long lists, "tensors": [[name, type, rank, bytes], ...] or null, "revision": commit}
or {} where the model is not there.

Tensors whose names differ only in numbers are one row: numbers are `*`, and `+` is a layer beyond the last one of the
model itself, which predicts several tokens at once. Standard library and Python 3.6 only.
"""

import json
import os
import re
import struct
import sys
from typing import Any, Dict, List, Optional

from model_folder import INDEX, find, read_json

LAYER = re.compile(r"^(?:model\.|language_model\.)*layers\.(\d+)\.")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# a header that claims more than this is none
LONGEST_HEADER = 1 << 28
LONGEST_LIST = 512

Row = List[Any]


def look(models_dir: str, model: str) -> Dict[str, Any]:
    """The model's own words about itself; nothing where it is not there."""
    folder, revision = find(os.path.expanduser(models_dir), model)
    if not folder:
        return {}
    config = read_json(os.path.join(folder, "config.json")) or {}
    text = config.get("text_config")
    layers = (text if isinstance(text, dict) else config).get("num_hidden_layers")
    try:
        tensors = rows(folder, layers if isinstance(layers, int) else None)  # type: Optional[List[Row]]
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        tensors = None
    return {"config": without_lists(config), "tensors": tensors or None, "revision": revision}


def shards(folder: str) -> List[str]:
    """The weights' files: those that the index names, else every one but a second copy of the same weights."""
    index = read_json(os.path.join(folder, INDEX))
    if index:
        return sorted(set(index["weight_map"].values()))
    found = [name for name in os.listdir(folder) if name.endswith(".safetensors")]
    return sorted(name for name in found if not name.startswith("consolidated"))


def rows(folder: str, layers: Optional[int]) -> List[Row]:
    """All tensors, those of like name together. OSError or ValueError where a file is no safetensors file."""
    found = {}  # type: Dict[Any, int]
    for shard in shards(folder):
        for name, entry in header(os.path.join(folder, shard)).items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            key = (pattern(name, layers), entry["dtype"], len(entry["shape"]))
            found[key] = found.get(key, 0) + end - begin
    return [[name, kind, rank, size] for (name, kind, rank), size in sorted(found.items())]


def pattern(name: str, layers: Optional[int]) -> str:
    """The name with its numbers replaced."""
    own = LAYER.match(name)
    if own and layers is not None and int(own.group(1)) >= layers:
        name = name[: own.start(1)] + "+" + name[own.end(1) :]
    return NUMBER.sub("*", name)


def header(path: str) -> Dict[str, Any]:
    """What a safetensors file says that it holds."""
    with open(path, "rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        if length > LONGEST_HEADER:
            raise ValueError("no safetensors file: %s" % path)
        found = json.loads(source.read(length).decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError("no safetensors file: %s" % path)
    return found


def without_lists(value: Any) -> Any:
    """The same without long lists, such as those of layers that are not quantised."""
    if isinstance(value, dict):
        short = {key: item for key, item in value.items() if not (isinstance(item, list) and len(item) > LONGEST_LIST)}
        return {key: without_lists(item) for key, item in short.items()}
    return value


if __name__ == "__main__":
    json.dump(look(*sys.argv[1:3]), sys.stdout)
