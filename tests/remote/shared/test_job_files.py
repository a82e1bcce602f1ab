"""Files of a job: replaced atomically, specs of other versions refused."""

from __future__ import annotations

import os
from pathlib import Path

import job_files
import pytest

from tests.remote.compute_node import mode_of


def test_write_json_replaces_file_atomically_and_private(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    old = os.umask(0)
    try:
        job_files.write_json(str(path), {"a": 1})
        reader = path.open()
        job_files.write_json(str(path), {"a": 2})
    finally:
        os.umask(old)
    with reader:
        assert '"a": 1' in reader.read(), "an open reader keeps the old file"
    assert '"a": 2' in path.read_text()
    assert mode_of(path) == 0o600 and list(tmp_path.iterdir()) == [path]


def test_write_failure_names_file_and_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "c.json").mkdir()
    with pytest.raises(OSError) as caught:
        job_files.write_json(str(tmp_path / "c.json"), {})
    assert caught.value.filename == str(tmp_path / "c.json") and len(list(tmp_path.iterdir())) == 1


def test_read_spec_of_other_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"version": 99}')
    with pytest.raises(job_files.JobRefusedError, match="version 99"):
        job_files.read_spec(str(tmp_path))


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"])
def test_read_text_without_content_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    assert job_files.read_text(str(tmp_path / "x")) is None


@pytest.mark.parametrize("content", ["", "[]", "{", "1"])
def test_read_json_without_object_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "x").write_text(content)
    assert job_files.read_json(str(tmp_path / "x")) is None
