"""Files of ended jobs: keys are removed at once, folders and logs by age; other files never."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import cleanup
import pytest

from tests.remote.compute_node import BOTH, OLDEST, SCRIPTS

DAY_S = 24 * 3600
NOTHING: dict[str, Any] = {"secrets": [], "folders": [], "logs": [], "trouble": None}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "it's a $root"


def run_cleanup(root: Path, python: str = OLDEST, **request: Any) -> dict[str, Any]:
    document = {"root": str(root), "live": [], "live_ids": [], "ended": [], "keep_days": 30, **request}
    done = subprocess.run(
        [python, str(SCRIPTS / "cleanup.py")], input=json.dumps(document), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def one_pass(root: Path) -> cleanup.CleanupPass:
    request = {"root": str(root), "live": [], "live_ids": [], "ended": [], "keep_days": 30}
    return cleanup.CleanupPass(request, time.time())


def write_file(path: Path, days: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    set_age(path, days)
    return path


def set_age(path: Path, days: float) -> None:
    moment = time.time() - days * DAY_S
    os.utime(path, (moment, moment))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_job(root: Path, name: str, days: float = 0, secret: str = "key") -> Path:
    folder = root / "jobs" / name
    for file in ("spec.json", "record.json", secret):
        write_file(folder / file, days)
    set_age(folder, days)
    return folder


@pytest.mark.parametrize("python", BOTH)
def test_cleanup_of_missing_root_removes_nothing(root: Path, python: str) -> None:
    assert run_cleanup(root, python) == NOTHING


def test_ended_job_loses_its_key_only(root: Path) -> None:
    ended, running = write_job(root, "bouchet-aa-1"), write_job(root, "bouchet-bb-1")
    download = write_job(root, "bouchet-download-cc-abcdefghijkl", secret="token")
    names = [ended.name, running.name, download.name, "bouchet-gone-1"]
    found = run_cleanup(root, ended=names, live=[running.name])
    assert found["secrets"] == [ended.name, download.name] and found["folders"] == []
    assert names_in(ended) == names_in(download) == ["record.json", "spec.json"]
    assert (running / "key").exists()
    assert run_cleanup(root, ended=names, live=[running.name])["secrets"] == []


def test_unknown_job_keeps_its_key_while_young(root: Path) -> None:
    folder = write_job(root, "bouchet-aa-1", days=29)
    assert run_cleanup(root)["secrets"] == [] and (folder / "key").exists()


def test_old_folders_are_removed_unless_live(root: Path) -> None:
    old, live, young = (write_job(root, f"bouchet-{name}-1", days=31) for name in ("aa", "bb", "cc"))
    write_file(young / "progress.json")
    assert run_cleanup(root, live=[live.name])["folders"] == [old.name]
    assert names_in(root / "jobs") == [live.name, young.name]


def test_folder_age_counts_from_removal_of_key(root: Path) -> None:
    folder = write_job(root, "bouchet-aa-1", days=31)
    assert run_cleanup(root, ended=[folder.name]) == {**NOTHING, "secrets": [folder.name]}
    set_age(folder, 31)
    assert run_cleanup(root, ended=[folder.name])["folders"] == [folder.name]


def test_old_log_files_of_ended_jobs_are_removed(root: Path) -> None:
    logs = root / "logs"
    old = ["7.log", "end-7.json", "connection-7.json", "heartbeat-7.json", "end-7.json.12.tmp", "end-7.json.tmp"]
    batch_jobs = ["bouchet-download-x-abcdefghijkl.log"]
    kept = ["README", "8.log", "connection-8.json", "notes.log", "7.log.gz", "bouchet-download-y-abcdefghijkl.log"]
    for name in (*old, *batch_jobs, *kept):
        write_file(logs / name, 31)
    write_file(logs / "9.log")
    found = run_cleanup(root, live_ids=[8], live=["bouchet-download-y-abcdefghijkl"])
    assert found["logs"] == sorted([*old, *batch_jobs])
    assert names_in(logs) == sorted([*kept, "9.log"])


def test_without_keep_days_only_keys_are_removed(root: Path) -> None:
    folder = write_job(root, "bouchet-aa-1", days=999)
    write_file(root / "logs" / "7.log", 999)
    found = run_cleanup(root, keep_days=None, ended=[folder.name])
    assert (found["secrets"], found["folders"], found["logs"]) == ([folder.name], [], [])


def test_links_and_foreign_names_are_kept(root: Path, tmp_path: Path) -> None:
    elsewhere = write_job(tmp_path / "elsewhere", "bouchet-aa-1", days=99)
    write_job(root, "thesis", days=99)
    (root / "jobs" / "bouchet-aa-1").symlink_to(elsewhere)
    write_file(root / "jobs" / "bouchet-file-1", 99)
    (root / "logs" / "7.log").mkdir(parents=True)
    set_age(root / "logs" / "7.log", 99)
    (root / "logs" / "8.log").symlink_to(elsewhere / "spec.json")
    assert run_cleanup(root, ended=["bouchet-aa-1", "thesis", "../jobs/thesis"]) == NOTHING
    assert (elsewhere / "key").exists() and (root / "jobs" / "thesis" / "key").exists()


def test_files_of_another_user_are_kept(root: Path) -> None:
    foreign = Path("/")
    if os.geteuid() == 0:
        foreign = write_job(root, "bouchet-aa-1", days=99)
        os.chown(foreign, 4321, -1)
        assert run_cleanup(root, ended=[foreign.name]) == NOTHING
    assert not cleanup.is_own(str(foreign), stat.S_ISDIR) and cleanup.is_own(str(root.parent), stat.S_ISDIR)


def test_removal_failure_is_reported_and_pass_goes_on(one_pass: cleanup.CleanupPass) -> None:
    def act(name: str) -> bool:
        if name == "stuck":
            raise PermissionError(errno.EACCES, "Permission denied", "/jobs/stuck")
        return True

    assert [one_pass.attempt(act, name) for name in ("stuck", "old")] == [False, True]
    assert one_pass.trouble == "/jobs/stuck: Permission denied"


def test_pass_ends_at_its_deadline(root: Path, one_pass: cleanup.CleanupPass) -> None:
    write_job(root, "bouchet-aa-1", days=31)
    one_pass.deadline = time.monotonic() - 1
    assert one_pass.run()["folders"] == [] and "left for the next one" in one_pass.trouble
