"""Images for arm64: a message names what a machine lacks, and an image that fails stops no other."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from setup.command import run
from setup.docker import arm64_images
from setup.docker.arm64_images import (
    BASE,
    STARTED,
    ImageResult,
    check_machine,
    check_services,
    emulator_problem,
    parse_handler,
    read_handlers,
    render_results,
    start_argv,
    try_image,
)
from setup.docker.base_images import SUITE
from setup.docker.engine import Compose
from setup.errors import SetupError, ToolMissingError
from setup.progress import Progress

ROOT = Path(__file__).parents[3]
FILES = ("manifest", "config")
# as kernels write them
QEMU = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
RISCV = QEMU.replace("aarch64", "riscv64").replace("b700", "f300")
PYTHON = "enabled\ninterpreter /usr/bin/python3.11\nflags: \noffset 0\nmagic a70d0d0a\n"


@pytest.fixture
def progress() -> Iterator[Progress]:
    """Yield a progress that is kept in memory."""
    with Progress(io.StringIO()) as progress:
        yield progress


@pytest.mark.parametrize(
    ("handlers", "problem"),
    [
        ([QEMU], ""),
        ([PYTHON, RISCV, QEMU], ""),
        ([], "install qemu's user emulation"),
        ([PYTHON, RISCV], "runs no programs for arm64"),
        ([QEMU.replace("enabled", "disabled")], "runs no programs for arm64"),
        ([QEMU.replace("POF", "PO")], "aarch64-binfmt-P is registered for arm64 without the flag F"),
        ([QEMU.replace("POF", ""), QEMU], ""),
    ],
)
def test_missing_emulator_is_named_with_what_to_do(handlers: Sequence[str], problem: str) -> None:
    found = emulator_problem([parse_handler(text) for text in handlers])
    assert problem in found and bool(problem) is bool(found)


def test_handlers_are_read_without_the_kernels_own_files(tmp_path: Path) -> None:
    for name, text in {"qemu-aarch64": QEMU, "status": "enabled\n", "register": ""}.items():
        (tmp_path / name).write_text(text)
    assert [handler.is_for_arm64 for handler in read_handlers(tmp_path)] == [True]
    assert read_handlers(tmp_path / "not-mounted") == []


def test_machine_of_arm64_needs_no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(SetupError, match="`make up` builds the same images"):
        check_machine()


def test_machine_without_emulator_shows_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(arm64_images, "read_handlers", list)
    with pytest.raises(ToolMissingError, match=r"an emulator for arm64 is missing; .*qemu-user-static"):
        check_machine()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SetupError, match="on Linux only"):
        check_machine()


def test_every_image_of_the_compose_files_is_built_and_started() -> None:
    files = [yaml.safe_load((ROOT / name).read_text()) for name in ("compose.yaml", "demo/compose.yaml")]
    built = {name for file in files for name, service in file["services"].items() if "build" in service}
    assert set(check_services(())) == set(STARTED) == built


def test_unknown_image_is_refused_with_those_that_there_are() -> None:
    assert check_services(["api"]) == ["api"]
    with pytest.raises(SetupError, match=r"there is no image of apu; there are: redis, .*demo-keys"):
        check_services(["api", "apu"])


def test_program_runs_without_network_and_for_a_limited_time() -> None:
    argv = start_argv("bouchet/api:arm64", STARTED["api"])
    assert {"--rm", "none", "linux/arm64", "timeout"} <= set(argv)
    assert argv[-3:] == ["python", "-c", "import bouchet_api.__main__"]


def test_image_that_fails_stops_no_other(progress: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose builds all but `worker`; in the image of `api` nothing runs."""
    for name, script in {
        "compose": 'case "$*" in *worker*) echo no wheel; exit 1;; esac',
        "docker": 'case "$*" in *api*) echo Illegal instruction; exit 132;; esac',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    compose = Compose((str(tmp_path / "compose"),), {})
    services = ("worker", "api", "proxy")
    results = [try_image(compose, name, f"bouchet/{name}:arm64", progress) for name in services]
    assert "no wheel" in results[0].problem and "Illegal instruction" in results[1].problem
    assert results[2].problem == ""


def test_table_has_a_line_an_image() -> None:
    text = render_results([ImageResult("api", 61.4, 8.2), ImageResult("proxy", 300, 0, "no wheel")])
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["api", "61", "s", "8", "s", "ok"],
        ["proxy", "300", "s", "0", "s", "failed"],
    ]


@pytest.mark.skipif(not Path("/etc/apt").is_dir(), reason="a base is made on Debian")
def test_base_made_for_arm64_says_so_to_every_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker import` of older engines drops the CPU type, so the image is loaded with its own description."""
    for name, script in {
        "docker": f'[ "$1" = load ] && exec cat > {tmp_path}/loaded.tar; exit 1',
        "mmdebstrap": f'echo "$@" > {tmp_path}/argv; while [ $# -gt 2 ]; do shift; done; printf root > "$1"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    run(["bash", str(ROOT / "demo" / "base_image.sh"), BASE, SUITE, "arm64"])
    assert "--architectures=arm64" in (tmp_path / "argv").read_text()
    with tarfile.open(tmp_path / "loaded.tar") as archive:
        (image,), config = (json.load(archive.extractfile(f"{name}.json") or io.BytesIO()) for name in FILES)
        layer = (archive.extractfile(image["Layers"][0]) or io.BytesIO()).read()
    assert image["RepoTags"] == [BASE] and (config["os"], config["architecture"]) == ("linux", "arm64")
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
