"""What a model on the cluster is made of, read from its own headers."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.remote.compute_node import OLDEST, SCRIPTS

CONFIG = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "quantization_config": {"quant_method": "x", "ignore": ["a"] * 600},
}


def look(models: Path, model: str = "Org/m") -> dict[str, Any]:
    words = [OLDEST, str(SCRIPTS / "inspect_model.py"), str(models), model]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def shard(path: Path, **tensors: tuple[str, list[int], int]) -> None:
    """A safetensors file with these tensors (type, shape, bytes), and nothing in them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape, size) in tensors.items():
        head[name.replace("__", ".")] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def model(models: Path, config: dict[str, Any] | None = None) -> Path:
    folder = models / "Org" / "m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    return folder


def test_tensors_of_like_name_are_one_row(tmp_path: Path) -> None:
    folder = model(tmp_path)
    weights = {
        f"model__layers__{n}__mlp__experts__{e}__up__weight": ("BF16", [2, 2], 8) for n in (0, 1) for e in (0, 17)
    }
    shard(folder / "model-00001-of-00002.safetensors", **weights, model__norm__weight=("BF16", [2], 4))
    shard(folder / "model-00002-of-00002.safetensors", model__layers__2__mlp__up__weight=("F8_E4M3", [2, 2], 4))
    shard(folder / "consolidated.safetensors", model__norm__weight=("BF16", [2], 4))
    found = look(tmp_path)
    assert found["tensors"] == [
        ["model.layers.*.mlp.experts.*.up.weight", "BF16", 2, 32],
        ["model.layers.+.mlp.up.weight", "F8_E4M3", 2, 4],
        ["model.norm.weight", "BF16", 1, 4],
    ]
    assert found["config"]["num_hidden_layers"] == 2
    assert found["config"]["quantization_config"] == {"quant_method": "x"}


def test_a_model_that_sees_counts_the_layers_of_its_language_part(tmp_path: Path) -> None:
    folder = model(tmp_path, {"text_config": {"num_hidden_layers": 1}})
    names = ("model__language_model__layers__1__a__weight", "model__visual__blocks__5__a__weight")
    shard(folder / "model.safetensors", **dict.fromkeys(names, ("BF16", [1, 1], 2)))
    rows = [row[0] for row in look(tmp_path)["tensors"]]
    assert rows == ["model.language_model.layers.+.a.weight", "model.visual.blocks.*.a.weight"]


def test_only_the_files_that_the_index_names_count(tmp_path: Path) -> None:
    folder = model(tmp_path)
    for name in ("a", "b"):
        shard(folder / f"{name}.safetensors", w=("BF16", [1], 2))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    assert look(tmp_path)["tensors"] == [["w", "BF16", 1, 2]]


def test_what_cannot_be_read_is_not_guessed(tmp_path: Path) -> None:
    folder = model(tmp_path)
    assert look(tmp_path)["tensors"] is None
    (folder / "model.safetensors").write_bytes(b"\xff" * 16)
    assert look(tmp_path)["tensors"] is None
    (folder / "model.safetensors").write_bytes(b"\x02")
    assert look(tmp_path)["tensors"] is None
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "missing.safetensors"}}')
    assert look(tmp_path)["tensors"] is None


@pytest.mark.parametrize(
    ("config", "quantised"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, True),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, True),
        ({"compression_config": {"format": "x"}}, True),
        ({"quantization_config": None, "text_config": {}}, False),
        ([], False),
    ],
)
def test_a_checkpoint_that_is_quantised_already(tmp_path: Path, config: object, quantised: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = "import sys, model_folder; sys.exit(0 if model_folder.is_quantised(sys.argv[1]) else 3)"
    done = subprocess.run([OLDEST, "-c", asked, str(tmp_path)], cwd=SCRIPTS, timeout=20)
    assert done.returncode == (0 if quantised else 3)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    assert look(tmp_path, "Org/other") == {}


def test_a_hub_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--Org--m" / "snapshots" / ("c" * 40)
    shard(snapshot / "model.safetensors", w=("BF16", [1], 2))
    (snapshot / "config.json").write_text("{}")
    assert look(tmp_path)["tensors"] == [["w", "BF16", 1, 2]] and look(tmp_path)["revision"] == "c" * 40
