"""An image is built again when, and only when, what it is made of changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from setup.docker.images import (
    DEMO_INPUTS,
    SERVICE_INPUTS,
    BuiltImage,
    digest_of,
    prune,
    reuse_known,
    spare_markers,
)
from tests.fakes.docker_program import FakeEngine, labels_of

ROOT = Path(__file__).parents[3]


def test_image_inputs_exist() -> None:
    missing = {
        path
        for paths in (*SERVICE_INPUTS.values(), *DEMO_INPUTS.values())
        for path in paths
        if not (ROOT / path).exists()
    }
    # `make up` writes it, where git can tell
    assert missing <= {"apptainer/commit"}


def test_digest_of_depends_on_content_name_mode_and_base(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    file = folder / "a.py"
    file.write_text("1")
    digests = [digest_of(tmp_path, ["package"], "base")]
    file.write_text("2")
    digests.append(digest_of(tmp_path, ["package"], "base"))
    file.chmod(0o755)
    digests.append(digest_of(tmp_path, ["package"], "base"))
    file.rename(folder / "b.py")
    digests.append(digest_of(tmp_path, ["package"], "base"))
    digests.append(digest_of(tmp_path, ["package"], "another base"))
    assert len(set(digests)) == 5


def test_digest_of_ignores_caches(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("1")
    before = digest_of(tmp_path, ["package"], "")
    for name in ("__pycache__", ".mypy_cache", "x.egg-info"):
        (tmp_path / "package" / name).mkdir()
        (tmp_path / "package" / name / "junk").write_text("x")
    assert digest_of(tmp_path, ["package"], "") == before


def test_built_image_marker_is_tag_of_same_repository() -> None:
    assert BuiltImage("api", "bouchet/api:dev", "0123").marker == "bouchet/api:inputs-0123"
    assert BuiltImage("api", "localhost:5000/api:dev", "0123").marker == "localhost:5000/api:inputs-0123"


TAGS = {"bouchet/api:dev": "new", "bouchet/api:inputs-new": "new", "bouchet/api:inputs-old": "old"}


@pytest.mark.parametrize(
    ("more", "in_use", "spare"),
    [
        ({}, set(), ["bouchet/api:inputs-old"]),
        ({}, {"old"}, []),
        ({"bouchet/api:lab": "old"}, set(), []),
        ({"bouchet/notes:inputs-x": "x"}, set(), ["bouchet/api:inputs-old"]),
    ],
)
def test_spare_markers_are_of_images_without_name_and_container(
    more: dict[str, str], in_use: set[str], spare: list[str]
) -> None:
    assert spare_markers({**TAGS, **more}, {"bouchet/api"}, in_use) == spare


def test_prune_leaves_inputs_of_other_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(tmp_path)
    monkeypatch.setenv("PATH", engine.path)
    lab = {"bouchet/api:lab": "a2", "bouchet/api:inputs-2": "a2", "bouchet/api:inputs-3": "a3"}
    engine.set(
        images={"bouchet/api:dev": "a1", "bouchet/api:inputs-1": "a1", "bouchet/api:inputs-0": "a0", **lab},
        containers={"c": {"image": "a3", "labels": labels_of("lab")}},
    )
    prune([BuiltImage("api", "bouchet/api:dev", "1")])
    assert engine.state["images"] == {"bouchet/api:dev": "a1", "bouchet/api:inputs-1": "a1", **lab}


def test_reuse_known_names_image_of_same_inputs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(tmp_path)
    monkeypatch.setenv("PATH", engine.path)
    engine.set(images={"bouchet/api:dev": "a2", "bouchet/api:inputs-1": "a1"})
    api, proxy = BuiltImage("api", "bouchet/api:dev", "1"), BuiltImage("proxy", "bouchet/proxy:dev", "7")
    assert reuse_known([api, proxy]) == [proxy]
    assert engine.state["images"]["bouchet/api:dev"] == "a1"
