"""Base images: pulled by the lock's digest, identified by their layers, and recorded in what is built from them."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from setup.docker.base_images import (
    LOCK,
    NAME,
    BaseImage,
    ensure_base_image,
    ensure_chosen_base,
    parse_base,
    read_digests,
    render_digests,
    renew_digests,
)
from setup.docker.containers import parse_container
from setup.docker.engine import with_files
from setup.docker.stack import Stack
from setup.errors import CommandFailedError, SetupError
from setup.files.env_file import EnvSettings
from setup.progress import Progress
from setup.up import build_images
from tests.fakes.docker_program import FakeEngine

ROOT = Path(__file__).parents[3]
SETTINGS = EnvSettings({"BOUCHET_HOST": "hpc"})
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Put an engine without a daemon on PATH, and a mmdebstrap that cannot make anything."""
    engine = FakeEngine(tmp_path)
    (engine.bin / "mmdebstrap").write_text("#!/bin/sh\nexit 1\n")
    (engine.bin / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", engine.path)
    return engine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a checkout whose lock names no digest."""
    root = tmp_path / "checkout"
    (root / "setup" / "locks").mkdir(parents=True)
    (root / "demo").mkdir()
    shutil.copy(ROOT / "demo" / "base_image.sh", root / "demo")
    (root / LOCK).write_text(render_digests({}))
    return root


@pytest.fixture
def progress() -> Iterator[Progress]:
    """Yield a progress that is kept in memory."""
    with Progress(io.StringIO()) as progress:
        yield progress


def test_base_is_identified_by_its_layers(engine: FakeEngine, progress: Progress, root: Path) -> None:
    found = []
    for number in ("made-on-monday", "made-on-tuesday"):
        engine.set(images={NAME: number}, layers={number: ["sha256:the-same"]})
        found.append(ensure_base_image(progress, root))
    assert found[0] == found[1]
    assert found[0].digest == "" and re.fullmatch("made here, layers sha256:[0-9a-f]{64}", found[0].record)


def test_base_is_pulled_by_the_locked_digest(engine: FakeEngine, progress: Progress, root: Path) -> None:
    (root / LOCK).write_text(render_digests({NAME: ONE}))
    engine.set(registry={NAME: TWO, "debian:before": ONE})
    assert ensure_base_image(progress, root).record == ONE
    assert ["pull", f"debian@{ONE}"] in engine.state["calls"]


def test_base_pulled_by_another_digest_is_replaced(engine: FakeEngine, progress: Progress, root: Path) -> None:
    (root / LOCK).write_text(render_digests({NAME: TWO}))
    engine.set(registry={NAME: TWO}, images={NAME: ONE}, pulled={NAME: ONE})
    assert ensure_base_image(progress, root).digest == TWO


def test_base_made_here_stays_beside_a_locked_digest(engine: FakeEngine, progress: Progress, root: Path) -> None:
    (root / LOCK).write_text(render_digests({NAME: TWO}))
    engine.set(images={NAME: "made"})
    assert ensure_base_image(progress, root).digest == ""
    assert not [call for call in engine.state["calls"] if call[0] == "pull"]


def test_base_of_unknown_digest_is_not_taken_by_tag(engine: FakeEngine, progress: Progress, root: Path) -> None:
    (root / LOCK).write_text(render_digests({NAME: ONE}))
    engine.set(registry={NAME: TWO})
    with pytest.raises(SetupError, match="no registry gives"):
        ensure_base_image(progress, root)


def test_chosen_base_is_pulled_and_never_made(engine: FakeEngine) -> None:
    engine.set(registry={"debian:sid": TWO})
    assert ensure_chosen_base("debian:sid").record == TWO
    with pytest.raises(CommandFailedError, match="no registry gives debian:other"):
        ensure_chosen_base("debian:other")


def test_build_images_follows_the_chosen_base(
    engine: FakeEngine, progress: Progress, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another base is another input: what was built from the first one is built again, and recorded as such."""
    engine.set(services={"api": "bouchet/api:dev"}, images={"debian:sid": "s", NAME: "t", "bouchet/api:dev": "a"})
    for name in ("Dockerfile", ".dockerignore"):
        (root / name).touch()
    markers = []
    for overrides in ({}, {"BOUCHET_BASE_IMAGE": "debian:sid"}):
        stack = Stack(root, "bouchet", root / ".env", overrides)
        compose = with_files(["docker", "compose"], stack, [], {})
        markers += [
            image.marker for image in build_images(stack, SETTINGS, progress, compose) if image.service == "api"
        ]
    assert len(set(markers)) == 2
    assert [call for call in engine.state["calls"] if "build" in call][-1][-1] == "api"


def test_renew_digests_keeps_entry_that_no_registry_gives(engine: FakeEngine, progress: Progress, root: Path) -> None:
    (root / LOCK).write_text(render_digests({"debian:bookworm-slim": ONE}))
    engine.set(registry={NAME: TWO})
    renew_digests(root, progress)
    assert read_digests(root) == {NAME: TWO, "debian:bookworm-slim": ONE}


def test_lock_of_the_checkout_is_readable() -> None:
    assert render_digests(read_digests(ROOT)) == (ROOT / LOCK).read_text()


def test_parse_base_without_digest_was_made_here() -> None:
    assert parse_base("a", '{"digests": null, "layers": ["x"]}') == BaseImage("a", "", '["x"]')
    assert parse_base("a", f'{{"digests": ["debian@{ONE}"], "layers": []}}').record == ONE


def test_images_are_labelled_with_their_base() -> None:
    for text in ((ROOT / path).read_text() for path in ("Dockerfile", "demo/cluster/Dockerfile")):
        assert text.count("LABEL org.opencontainers.image.base.name=") == text.count("FROM ${BASE}")
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert all("BASE_DIGEST" in service["build"]["args"] for service in compose["services"].values())


def test_parse_container_reads_base_from_labels() -> None:
    labels = {"org.opencontainers.image.base.name": NAME, "org.opencontainers.image.base.digest": ONE}
    raw = {"State": {"Status": "running"}, "Config": {"Labels": labels}}
    assert parse_container(raw).base == f"{NAME} {ONE}"
    assert parse_container({"State": {"Status": "running"}, "Config": {"Labels": {}}}).base == ""
