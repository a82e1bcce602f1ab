"""An image is built again when, and only when, what it is made of changed."""

from __future__ import annotations

from pathlib import Path

from setup.docker.images import DEMO_INPUTS, ROOM_INPUTS, Image, digest_of

ROOT = Path(__file__).parents[2]


def test_inputs_exist() -> None:
    missing = {
        path for paths in (*ROOM_INPUTS.values(), *DEMO_INPUTS.values()) for path in paths if not (ROOT / path).exists()
    }
    # `make up` writes it, where git can tell
    assert missing <= {"apptainer/commit"}


def test_the_digest_follows_content_name_mode_and_base(tmp_path: Path) -> None:
    folder = tmp_path / "room"
    folder.mkdir()
    file = folder / "a.py"
    file.write_text("1")
    digests = [digest_of(tmp_path, ["room"], "base")]
    file.write_text("2")
    digests.append(digest_of(tmp_path, ["room"], "base"))
    file.chmod(0o755)
    digests.append(digest_of(tmp_path, ["room"], "base"))
    file.rename(folder / "b.py")
    digests.append(digest_of(tmp_path, ["room"], "base"))
    digests.append(digest_of(tmp_path, ["room"], "another base"))
    assert len(set(digests)) == 5


def test_caches_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("1")
    before = digest_of(tmp_path, ["room"], "")
    for name in ("__pycache__", ".mypy_cache", "x.egg-info"):
        (tmp_path / "room" / name).mkdir()
        (tmp_path / "room" / name / "junk").write_text("x")
    assert digest_of(tmp_path, ["room"], "") == before


def test_the_marker_is_a_tag_beside_the_name() -> None:
    assert Image("api", "bouchet/api:dev", "0123").marker == "bouchet/api:inputs-0123"
    assert Image("api", "localhost:5000/api:dev", "0123").marker == "localhost:5000/api:inputs-0123"
