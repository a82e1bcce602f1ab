"""The catalog file of `bouchet models add`, changed as text."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from bouchet_cli.client.added_models import AddedModels
from bouchet_cli.client.errors import CommandError
from bouchet_core.config.catalog import load_catalog

FILE = "bouchet.added.yaml"
BLOCK = "  org/{0}:\n    alias: {0}\n    window: 8192\n    extra_args:\n      - --enforce-eager\n"


@pytest.fixture
def added(tmp_path: Path) -> AddedModels:
    (tmp_path / "sites").mkdir()
    return AddedModels({}, tmp_path)


def test_entries_are_added_replaced_and_removed(added: AddedModels, tmp_path: Path) -> None:
    path = added.write(FILE, "org/a", BLOCK.format("a"))
    assert path == tmp_path / "sites" / FILE and path.stat().st_mode & 0o777 == 0o644
    added.write(FILE, "org/b", BLOCK.format("b"))
    assert sorted(load_catalog(path).entries) == ["org/a", "org/b"]
    added.write(FILE, "org/a", BLOCK.format("a").replace("8192", "4096"))
    assert load_catalog(path).find("a")[1].window == 4096
    assert added.has(FILE, "org/a") and not added.has(FILE, "org/c")
    assert added.remove(FILE, "org/a") and not added.remove(FILE, "org/a")
    assert sorted(load_catalog(path).entries) == ["org/b"]
    assert added.remove(FILE, "org/b") and not path.exists()


def test_comments_and_other_entries_stay(added: AddedModels, tmp_path: Path) -> None:
    path = added.write(FILE, "org/a", BLOCK.format("a"))
    edited = path.read_text().replace(
        "  org/a:", "  # my favourite\n  org/a-long:\n    alias: l\n    window: 512\n  org/a:"
    )
    path.write_text(edited)
    added.remove(FILE, "org/a")
    assert "# my favourite" in path.read_text()
    assert list(yaml.safe_load(path.read_text())["models"]) == ["org/a-long"]


def test_file_is_always_in_the_folder_of_sites(added: AddedModels, tmp_path: Path) -> None:
    assert added.write("../../etc/x.added.yaml", "org/a", BLOCK.format("a")).parent == tmp_path / "sites"


def test_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot write"):
        AddedModels({}, tmp_path).write(FILE, "org/a", BLOCK.format("a"))
