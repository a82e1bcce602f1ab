"""Whether a model on disk is whole, seen before vLLM is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.remote.compute_node import load

TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def shard(path: Path, keep: int | None = None) -> None:
    """A safetensors file with one tensor of 16 bytes."""
    head = json.dumps({"__metadata__": {"format": "pt"}, "a": TENSOR}).encode()
    path.write_bytes((len(head).to_bytes(8, "little") + head + b"\0" * 16)[:keep])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two whole shards, index and config."""
    (tmp_path / "config.json").write_text("{}")
    for number in (1, 2):
        shard(tmp_path / f"model-{number}.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def flaw(model: Path) -> str:
    return str(load("model_folder").flaw_in(str(model)))


def test_a_whole_model_has_no_flaw(model: Path) -> None:
    assert flaw(model) == ""


@pytest.mark.parametrize("keep", [0, 7, 30, -1])
def test_a_shard_that_is_cut_off(model: Path, keep: int) -> None:
    shard(model / "model-2.safetensors", keep)
    assert flaw(model).startswith("model-2.safetensors is cut off: ")


def test_a_missing_shard(model: Path) -> None:
    (model / "model-2.safetensors").unlink()
    assert flaw(model) == "1 of its 2 weight files are missing (model-2.safetensors)"


def test_an_index_of_weights_that_lie_there_in_another_form(model: Path) -> None:
    for weights in model.glob("*.safetensors"):
        weights.unlink()
    assert "2 of its 2" in flaw(model)
    (model / "pytorch_model.bin").write_bytes(b"other")
    assert flaw(model) == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1'])
def test_a_broken_config(model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    assert flaw(model).startswith("config.json is broken: ")


def test_a_head_that_is_no_head(model: Path) -> None:
    (model / "model-1.safetensors").write_bytes((20).to_bytes(8, "little") + b"\xff" * 40)
    assert "model-1.safetensors is broken" in flaw(model)
