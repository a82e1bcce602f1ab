"""`make remove` and `make clean` take what belongs to their stack, and nothing of another one."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from setup import down
from setup.docker.base_images import DEMO_NODE_NAME, NAME
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


SERVICES = {"api": "bouchet/api:dev", "proxy": "bouchet/proxy:dev"}
OURS = {
    "bouchet/api:dev": "a1",
    "bouchet/api:inputs-1": "a1",
    "bouchet/proxy:dev": "p1",
    "bouchet/proxy:inputs-2": "p1",
}
BASES = {NAME: "trixie", DEMO_NODE_NAME: "bookworm"}
LAB = {**labels_of("lab"), "bouchet.secrets": "0123"}


@pytest.mark.slow
def test_clean_takes_images_and_bases_made_here(engine: FakeEngine, stack: Stack) -> None:
    other = {"bouchet/notes:dev": "n1", "debian:sid": "s1"}
    engine.set(services=SERVICES, images={**OURS, **BASES, **other})
    take_down("clean", stack)
    assert engine.state["images"] == other


def test_clean_leaves_pulled_base(engine: FakeEngine, stack: Stack) -> None:
    engine.set(services=SERVICES, images=BASES, pulled={NAME: "sha256:" + "d" * 64})
    take_down("clean", stack)
    assert set(engine.state["images"]) == {NAME}


def test_clean_leaves_images_of_another_running_stack(engine: FakeEngine, stack: Stack) -> None:
    own = {"c-own": {"image": "a1", "labels": labels_of("bouchet")}}
    lab = {f"c-{image}": {"image": image, "labels": LAB} for image in ("a1", "p1")}
    engine.set(services=SERVICES, images={**OURS, **BASES}, containers={**own, **lab})
    take_down("clean", stack)
    assert engine.state["images"] == {**OURS, **BASES}
    assert set(engine.state["containers"]) == {"c-a1", "c-p1"}


@pytest.mark.slow
def test_clean_leaves_other_tag_and_inputs_of_image_in_use(engine: FakeEngine, stack: Stack) -> None:
    lab = {"bouchet/api:lab": "a2", "bouchet/api:inputs-8": "a2", "bouchet/proxy:inputs-9": "p2"}
    engine.set(services=SERVICES, images={**OURS, **lab}, containers={"c": {"image": "p2", "labels": LAB}})
    take_down("clean", stack)
    assert engine.state["images"] == lab


@pytest.mark.slow
@pytest.mark.parametrize("labels", [LAB, {}])
def test_clean_leaves_staged_files_to_another_stack(engine: FakeEngine, stack: Stack, labels: dict[str, str]) -> None:
    engine.set(containers={"c": {"image": "a2", "labels": labels}} if labels else {})
    staged = stack.cache_dir / "staging" / "file"
    staged.parent.mkdir(parents=True)
    staged.touch()
    take_down("clean", stack)
    assert staged.exists() is bool(labels)
