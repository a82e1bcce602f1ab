"""`make install` and `make uninstall`, and the staging of an image's parts."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from setup.errors import SetupError
from setup.image_stage import base_argv, distribution, foreign_argv, pin_facts, stage_pin, target_of
from setup.install import completion_paths, install, uninstall
from setup.progress import Progress

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "bouchet").write_text('#!/bin/sh\necho "completion of $2"\n')
    (root / "bouchet").chmod(0o755)
    return root


def environ(folder: Path) -> dict[str, str]:
    return {"HOME": str(folder), "PATH": "/usr/bin:/bin"}


def test_install_links_the_program_and_uninstall_removes_it(checkout: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    with Progress(out) as progress:
        for _ in range(2):
            install(checkout, environ(tmp_path), progress)
    link = tmp_path / ".local" / "bin" / "bouchet"
    assert link.resolve() == checkout / "bouchet" and "is not on your PATH" in out.getvalue()
    paths = completion_paths(environ(tmp_path))
    assert paths["bash"].read_text() == "completion of bash\n"
    with Progress(out) as progress:
        uninstall(checkout, environ(tmp_path), progress)
    assert not link.is_symlink() and not any(path.exists() for path in paths.values())


def test_other_programs_of_the_name_stay(checkout: Path, tmp_path: Path) -> None:
    link = tmp_path / ".local" / "bin" / "bouchet"
    link.parent.mkdir(parents=True)
    link.write_text("mine")
    with Progress(io.StringIO()) as progress:
        with pytest.raises(SetupError, match="another program"):
            install(checkout, environ(tmp_path), progress)
        uninstall(checkout, environ(tmp_path), progress)
    assert link.read_text() == "mine"


def test_staging_an_unknown_pin_names_the_pins(tmp_path: Path) -> None:
    with Progress(io.StringIO()) as progress:
        with pytest.raises(SetupError, match=r"cuda13-0\.32\.0"):
            stage_pin(ROOT, "cuda13", str(tmp_path), progress)
        with pytest.raises(SetupError, match="name a pin and a folder"):
            stage_pin(ROOT, "", "", progress)


@pytest.mark.parametrize("pin", ["cuda13-0.32.0", "cuda13-0.33.0", "cuda128-0.19.1", "cpu-0.32.0"])
def test_every_pin_has_a_target_and_a_base(pin: str) -> None:
    facts = pin_facts(ROOT, pin)
    assert target_of(facts).machine == "x86_64"
    argv = base_argv(ROOT, pin, facts)
    assert f"BASE={facts['base']}" in argv
    assert ("PACKAGES=" + facts.get("packages", "")) in argv or "packages" not in facts


@pytest.mark.parametrize(
    ("pin", "cpu", "name", "arch"),
    [
        ("cpu-arm64-0.32.0", "x86_64", "arm64v8/debian:bookworm-slim", "arm64"),
        ("cpu-0.32.0", "aarch64", "amd64/debian:bookworm-slim", "amd64"),
    ],
)
def test_base_of_another_cpu_has_a_name_of_its_own(pin: str, cpu: str, name: str, arch: str) -> None:
    facts = pin_facts(ROOT, pin)
    assert f"BASE={name}" in base_argv(ROOT, pin, facts, cpu)
    assert foreign_argv(ROOT, facts, cpu)[2:] == [name, "bookworm", arch]
    own = target_of(facts).machine
    assert distribution(facts, own) == "debian:bookworm-slim"
