"""Models on disk: damage is found before vLLM starts, hub caches of several commits, unsafe file names."""

from __future__ import annotations

import json
from pathlib import Path

import model_folder
import pytest

TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def write_shard(path: Path, keep: int | None = None) -> None:
    """Write a safetensors file with one tensor of 16 bytes, truncated to `keep` bytes."""
    header = json.dumps({"__metadata__": {"format": "pt"}, "a": TENSOR}).encode()
    path.write_bytes((len(header).to_bytes(8, "little") + header + b"\0" * 16)[:keep])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Make two complete shards, index and config."""
    (tmp_path / "config.json").write_text("{}")
    for number in (1, 2):
        write_shard(tmp_path / f"model-{number}.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def damage(model: Path) -> str:
    return str(model_folder.find_damage(str(model)))


def test_damage_of_complete_model_is_empty(model: Path) -> None:
    assert damage(model) == ""


@pytest.mark.parametrize("keep", [0, 7, 30, -1])
def test_damage_truncated_shard_is_named(model: Path, keep: int) -> None:
    write_shard(model / "model-2.safetensors", keep)
    assert damage(model).startswith("model-2.safetensors is truncated: ")


def test_damage_missing_shard_is_named(model: Path) -> None:
    (model / "model-2.safetensors").unlink()
    assert damage(model) == "1 of its 2 weight files are missing (model-2.safetensors)"


def test_damage_ignores_index_when_weights_have_other_format(model: Path) -> None:
    for weights in model.glob("*.safetensors"):
        weights.unlink()
    assert "2 of its 2" in damage(model)
    (model / "pytorch_model.bin").write_bytes(b"other")
    assert damage(model) == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1'])
def test_damage_invalid_config_is_named(model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    assert damage(model).startswith("config.json is damaged: ")


def test_damage_invalid_header_is_named(model: Path) -> None:
    (model / "model-1.safetensors").write_bytes((20).to_bytes(8, "little") + b"\xff" * 40)
    assert "model-1.safetensors is damaged" in damage(model)


def test_purge_warning_begins_a_week_before_deletion(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    now = (tmp_path / "config.json").stat().st_mtime
    assert model_folder.purge_warning(str(tmp_path), 30, now + 10 * 86_400) == ""
    assert model_folder.purge_warning(str(tmp_path), None, now + 99 * 86_400) == ""
    assert "25 days old" in model_folder.purge_warning(str(tmp_path), 30, now + 25.5 * 86_400)
    assert "deleted after 30 days" in model_folder.purge_warning(str(tmp_path), 30, now + 40 * 86_400)


def test_find_model_in_hub_cache_prefers_pinned_commit(tmp_path: Path) -> None:
    repository = tmp_path / "models--Org--Name"
    for commit in ("old", "new"):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("new")
    assert model_folder.find_model(str(tmp_path), "Org/Name")[1] == "new"
    assert model_folder.find_model(str(tmp_path), "Org/Name", "old")[1] == "old"
    assert model_folder.find_model(str(tmp_path), "Org/Name", "gone")[1] == "new"


@pytest.mark.parametrize(
    ("config", "quantized"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, True),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, True),
        ({"compression_config": {"format": "x"}}, True),
        ({"quantization_config": None, "text_config": {}}, False),
        ([], False),
    ],
)
def test_is_quantized_reads_config(tmp_path: Path, config: object, quantized: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_folder.is_quantized(str(tmp_path)) is quantized


@pytest.mark.parametrize("name", ["/etc/x", ".bouchet/manifest.json", "a/../../x", "a//b", "a\\b", "a\nb", "", "./a"])
def test_is_safe_rejects_paths_out_of_folder(name: str) -> None:
    assert not model_folder.is_safe(name)


def test_is_safe_accepts_plain_paths() -> None:
    assert model_folder.is_safe("config.json") and model_folder.is_safe("a/b.safetensors")


def test_shared_directories_are_searched_after_models_dir(tmp_path: Path) -> None:
    def config(folder: str, revision: str) -> str:
        path = tmp_path / folder / "org" / "name"
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
        (path / "REVISION").write_text(f"{revision}\n")
        return str(path)

    missing, group = str(tmp_path / "own"), str(tmp_path / "group")
    shared = config("group", "b" * 40)
    assert model_folder.find_in_folders([missing, group], "org/name") == (shared, "b" * 40)
    own = config("own", "a" * 40)
    assert model_folder.find_in_folders([missing, group], "org/name") == (own, "a" * 40)
    # a wanted commit comes first, wherever it is
    assert model_folder.find_in_folders([missing, group], "org/name", "b" * 40) == (shared, "b" * 40)
    assert model_folder.find_in_folders([missing, group], "org/other") == ("", None)
    with pytest.raises(OSError, match="nowhere"):
        model_folder.find_in_folders([str(tmp_path / "nowhere")], "org/name")
