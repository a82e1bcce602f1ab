"""A new environment takes the place of an old one in one step, and nobody who runs the old one loses it."""

from __future__ import annotations

from pathlib import Path

from setup.python.python_env import lead_to


def made(folder: Path, name: str, said: str) -> Path:
    place = folder / name
    place.mkdir()
    (place / "message").write_text(said)
    return place


def test_a_link_leads_to_the_newest_and_the_one_before_stays(tmp_path: Path) -> None:
    target = tmp_path / ".venv"
    places = [tmp_path / f".venv-{number:012x}" for number in range(1, 4)]
    for place in places:
        lead_to(made(tmp_path, place.name, place.name), target)
        assert (target / "message").read_text() == place.name
    assert [place.exists() for place in places] == [False, True, True]


def test_a_folder_of_earlier_versions_gives_way(tmp_path: Path) -> None:
    target = made(tmp_path, "cli", "old")
    other = made(tmp_path, "cli-of-somebody-else", "")
    with (target / "message").open() as running:
        lead_to(made(tmp_path, "cli-0123456789ab", "new"), target)
        assert running.read() == "old"
    assert (target / "message").read_text() == "new" and target.is_symlink()
    lead_to(made(tmp_path, "cli-0123456789ac", "newer"), target)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cli",
        "cli-0123456789ab",
        "cli-0123456789ac",
        other.name,
    ]
