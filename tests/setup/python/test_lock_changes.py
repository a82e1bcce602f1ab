"""The table that `make renew` prints, from prepared texts of locks; no registry is asked."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from setup.progress import Progress
from setup.python.lock_changes import Change, find_changes, parse_versions, render_changes
from setup.python.locks import LOCKS, Lock, renew_all

ROOT = Path(__file__).parents[3]
BEFORE = """\
httpx==0.27.0 \\
    --hash=sha256:aa \\
    --hash=sha256:ab
idna==3.6 \\
    --hash=sha256:bb
Old_Name[extra]==1 ; sys_platform == 'linux' \\
    --hash=sha256:cc
numpy==1.26 ; python_full_version < '3.12' \\
    --hash=sha256:dd
numpy==2.0 ; python_full_version >= '3.12' \\
    --hash=sha256:de
"""
AFTER = """\
anyio==4.0 \\
    --hash=sha256:ee
httpx==0.28.1 \\
    --hash=sha256:af
idna==3.6 \\
    --hash=sha256:bb \\
    --hash=sha256:bc
numpy==1.26 ; python_full_version < '3.12' \\
    --hash=sha256:dd
numpy==2.1 ; python_full_version >= '3.12' \\
    --hash=sha256:df
"""
CHANGES = [
    Change("anyio", "-", "4.0"),
    Change("httpx", "0.27.0", "0.28.1"),
    Change("idna", "3.6", "3.6 (other files)"),
    Change("numpy", "1.26, 2.0", "1.26, 2.1"),
    Change("old-name", "1", "-"),
]


def test_find_changes_names_new_renewed_and_removed_packages() -> None:
    assert find_changes(BEFORE, AFTER) == CHANGES


def test_find_changes_same_text_or_order_is_none() -> None:
    blocks = AFTER.replace("\nhttpx", "\n\nhttpx").split("\n\n")
    assert find_changes(AFTER, AFTER) == []
    assert find_changes(AFTER, "\n".join(reversed(blocks))) == []


def test_find_changes_of_new_lock_lists_all() -> None:
    assert {change.old for change in find_changes("", AFTER)} == {"-"}


def test_render_changes_joins_locks_of_one_change() -> None:
    text = render_changes({"cli/requirements.lock": CHANGES[1:2], "setup/locks/uv.lock": CHANGES[:2]})
    assert text.splitlines() == [
        "package  old     new     locks",
        "anyio    -       4.0     setup/locks/uv.lock",
        "httpx    0.27.0  0.28.1  cli, setup/locks/uv.lock",
    ]
    assert render_changes({"cli/requirements.lock": []}) == "no lock has changed"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.output)
def test_parse_versions_reads_own_locks(lock: Lock) -> None:
    text = (ROOT / lock.output).read_text()
    names = {line.split("==")[0].split("[")[0] for line in text.splitlines() if "==" in line and line[0].isalnum()}
    assert len(parse_versions(text)) == len(names)


def test_renew_all_prints_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program in uv's place answers each lock with the prepared text."""
    for lock in LOCKS:
        for name in (lock.output, *lock.sources):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text((ROOT / name).read_text())
        (tmp_path / lock.output).write_text(BEFORE)
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\ncat > /dev/null\ncat <<'END'\n{AFTER}END\n")
    uv.chmod(0o755)
    with Progress(io.StringIO()) as progress:
        renew_all(tmp_path, progress, str(uv))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["package", "old", "new", "locks"] and len(printed) == 1 + len(CHANGES)
    assert all((tmp_path / lock.output).read_text() == AFTER for lock in LOCKS)
