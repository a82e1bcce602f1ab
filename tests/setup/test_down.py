"""`make remove` and `make clean` take what belongs to their stack, and nothing of another one."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from setup import down
from setup.docker.stack import Stack
from setup.progress import Progress
from tests.fakes.docker_program import FakeEngine, labels_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Put an engine without a daemon on PATH."""
    engine = FakeEngine(tmp_path)
    monkeypatch.setenv("PATH", engine.path)
    return engine


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Return the default stack in a folder without an env file."""
    (tmp_path / "checkout").mkdir()
    return Stack(tmp_path / "checkout", "bouchet", tmp_path / "checkout" / ".env", {})


def take_down(act: str, stack: Stack) -> None:
    with Progress(io.StringIO()) as progress:
        getattr(down, act)(stack, progress)


def test_remove_leaves_volumes_of_stack_whose_name_begins_alike(engine: FakeEngine, stack: Stack) -> None:
    engine.set(
        volumes={
            "bouchet_redis-data": labels_of("bouchet", "redis-data"),
            "bouchet_gateway-data": labels_of("bouchet", "gateway-data"),
            "bouchet_lab_redis-data": labels_of("bouchet_lab", "redis-data"),
            "bouchet_notes": {},
            "bouchet-demo-software": labels_of("bouchet", "demo-software"),
        }
    )
    take_down("remove", stack)
    assert set(engine.state["volumes"]) == {"bouchet_lab_redis-data", "bouchet_notes", "bouchet-demo-software"}


def test_remove_takes_volumes_of_earlier_version(engine: FakeEngine, stack: Stack) -> None:
    engine.set(volumes={"bouchet_no-longer-declared": labels_of("bouchet", "no-longer-declared")})
    take_down("remove", stack)
    assert engine.state["volumes"] == {}


def test_remove_without_volumes_ends_well(engine: FakeEngine, stack: Stack) -> None:
    take_down("remove", stack)
    assert not [call for call in engine.state["calls"] if call[:2] == ["volume", "rm"]]
