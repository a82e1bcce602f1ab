"""A new environment takes the place of an old one in one step, and programs that run the old one keep it."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import Popen

import pytest

from setup.python.environments import point_link_to


def made(folder: Path, name: str, message: str) -> Path:
    place = folder / name
    place.mkdir()
    (place / "message").write_text(message)
    return place


def test_point_link_to_keeps_previous_environment(tmp_path: Path) -> None:
    target = tmp_path / ".venv"
    places = [tmp_path / f".venv-{number:012x}" for number in range(1, 4)]
    for place in places:
        point_link_to(made(tmp_path, place.name, place.name), target)
        assert (target / "message").read_text() == place.name
    assert [place.exists() for place in places] == [False, True, True]


def test_point_link_to_replaces_plain_folder(tmp_path: Path) -> None:
    target = made(tmp_path, "cli", "old")
    other = made(tmp_path, "cli-of-another-user", "")
    with (target / "message").open() as running:
        point_link_to(made(tmp_path, "cli-0123456789ab", "new"), target)
        assert running.read() == "old"
    assert (target / "message").read_text() == "new" and target.is_symlink()
    point_link_to(made(tmp_path, "cli-0123456789ac", "newer"), target)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cli",
        "cli-0123456789ab",
        "cli-0123456789ac",
        other.name,
    ]


MAKE = """
import sys
from pathlib import Path
from setup.progress import Progress
from setup.python.environments import ensure_environment
print(ensure_environment(Progress(sys.stderr), Path(sys.argv[1]), [Path(sys.argv[2])]))
"""


@pytest.mark.slow
def test_commands_that_begin_together_share_one_environment(tmp_path: Path) -> None:
    """The first `bouchet` of a clone makes its environment; another terminal must not delete it meanwhile."""
    lock = tmp_path / "requirements.lock"
    lock.touch()
    argv = [sys.executable, "-c", MAKE, str(tmp_path / "cli"), str(lock)]
    programs = [Popen(argv) for _ in range(3)]
    assert [program.wait(120) for program in programs] == [0, 0, 0]
    (made,) = tmp_path.glob("cli-*")
    assert (tmp_path / "cli").readlink() == Path(made.name)
