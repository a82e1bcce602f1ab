"""Architecture and tensors of a model, read from its headers."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

from tests.remote.compute_node import OLDEST, SCRIPTS

CONFIG = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "quantization_config": {"quant_method": "x", "ignore": ["a"] * 600},
}


def inspect(models: Path, model: str = "Org/m") -> dict[str, Any]:
    argv = [OLDEST, str(SCRIPTS / "inspect_model.py"), str(models), model]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def write_shard(path: Path, **tensors: tuple[str, list[int], int]) -> None:
    """Write a safetensors file with these tensors (type, shape, bytes), all zero."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape, size) in tensors.items():
        header[name.replace("__", ".")] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def make_model(models: Path, config: dict[str, Any] | None = None) -> Path:
    folder = models / "Org" / "m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    return folder


def test_tensors_with_equal_pattern_are_one_row(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    weights = {
        f"model__layers__{n}__mlp__experts__{e}__up__weight": ("BF16", [2, 2], 8) for n in (0, 1) for e in (0, 17)
    }
    write_shard(folder / "model-00001-of-00002.safetensors", **weights, model__norm__weight=("BF16", [2], 4))
    write_shard(folder / "model-00002-of-00002.safetensors", model__layers__2__mlp__up__weight=("F8_E4M3", [2, 2], 4))
    write_shard(folder / "consolidated.safetensors", model__norm__weight=("BF16", [2], 4))
    found = inspect(tmp_path)
    assert found["tensors"] == [
        ["model.layers.*.mlp.experts.*.up.weight", "BF16", 2, 32],
        ["model.layers.+.mlp.up.weight", "F8_E4M3", 2, 4],
        ["model.norm.weight", "BF16", 1, 4],
    ]
    assert found["config"]["num_hidden_layers"] == 2
    assert found["config"]["quantization_config"] == {"quant_method": "x"}


def test_multimodal_model_counts_layers_of_text_config(tmp_path: Path) -> None:
    folder = make_model(tmp_path, {"text_config": {"num_hidden_layers": 1}})
    names = ("model__language_model__layers__1__a__weight", "model__visual__blocks__5__a__weight")
    write_shard(folder / "model.safetensors", **dict.fromkeys(names, ("BF16", [1, 1], 2)))
    rows = [row[0] for row in inspect(tmp_path)["tensors"]]
    assert rows == ["model.language_model.layers.+.a.weight", "model.visual.blocks.*.a.weight"]


def test_files_that_are_not_in_index_are_ignored(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    for name in ("a", "b"):
        write_shard(folder / f"{name}.safetensors", w=("BF16", [1], 2))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    assert inspect(tmp_path)["tensors"] == [["w", "BF16", 1, 2]]


def test_unreadable_weights_give_no_tensors(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    assert inspect(tmp_path)["tensors"] is None
    (folder / "model.safetensors").write_bytes(b"\xff" * 16)
    assert inspect(tmp_path)["tensors"] is None
    (folder / "model.safetensors").write_bytes(b"\x02")
    assert inspect(tmp_path)["tensors"] is None
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "missing.safetensors"}}')
    assert inspect(tmp_path)["tensors"] is None


def test_missing_model_gives_empty_result(tmp_path: Path) -> None:
    assert inspect(tmp_path, "Org/other") == {}


def test_model_in_hub_cache_is_found(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--Org--m" / "snapshots" / ("c" * 40)
    write_shard(snapshot / "model.safetensors", w=("BF16", [1], 2))
    (snapshot / "config.json").write_text("{}")
    assert inspect(tmp_path)["tensors"] == [["w", "BF16", 1, 2]] and inspect(tmp_path)["revision"] == "c" * 40
