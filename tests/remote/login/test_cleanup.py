"""What ended jobs have left is removed: keys at once, folders and logs by their age; nothing else ever."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import stat
import subprocess
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.remote.compute_node import BOTH, OLDEST, SCRIPTS

DAY_S = 24 * 3600


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "it's a $root"


@pytest.fixture
def tidying() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cleanup", SCRIPTS / "cleanup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tidy(root: Path, python: str = OLDEST, **asked: Any) -> dict[str, Any]:
    document = {"root": str(root), "live": [], "live_ids": [], "ended": [], "keep_days": 30, **asked}
    done = subprocess.run(
        [python, str(SCRIPTS / "cleanup.py")], input=json.dumps(document), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def write(path: Path, days: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    age(path, days)
    return path


def age(path: Path, days: float) -> None:
    moment = time.time() - days * DAY_S
    os.utime(path, (moment, moment))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def job(root: Path, name: str, days: float = 0, secret: str = "key") -> Path:
    folder = root / "jobs" / name
    for file in ("spec.json", "record.json", secret):
        write(folder / file, days)
    age(folder, days)
    return folder


@pytest.mark.parametrize("python", BOTH)
def test_a_folder_that_is_not_there_holds_nothing(root: Path, python: str) -> None:
    assert tidy(root, python) == {"secrets": [], "folders": [], "logs": [], "trouble": None}


def test_the_key_goes_at_the_end_and_the_rest_stays(root: Path) -> None:
    over, running = job(root, "bouchet-aa-1"), job(root, "bouchet-bb-1")
    fetched = job(root, "bouchet-download-cc-abcdefghijkl", secret="token")
    ended = [over.name, running.name, fetched.name, "bouchet-gone-1"]
    found = tidy(root, ended=ended, live=[running.name])
    assert found["secrets"] == [over.name, fetched.name] and found["folders"] == []
    assert names_in(over) == names_in(fetched) == ["record.json", "spec.json"]
    assert (running / "key").exists()
    assert tidy(root, ended=ended, live=[running.name])["secrets"] == []


def test_an_unknown_job_keeps_its_key_while_it_is_young(root: Path) -> None:
    folder = job(root, "bouchet-aa-1", days=29)
    assert tidy(root)["secrets"] == [] and (folder / "key").exists()


def test_old_folders_go_unless_they_are_live(root: Path) -> None:
    old, live, young = (job(root, f"bouchet-{name}-1", days=31) for name in ("aa", "bb", "cc"))
    write(young / "progress.json")
    assert tidy(root, live=[live.name])["folders"] == [old.name]
    assert names_in(root / "jobs") == [live.name, young.name]


def test_a_folder_stays_for_its_days_after_its_keys_removal(root: Path) -> None:
    folder = job(root, "bouchet-aa-1", days=31)
    assert tidy(root, ended=[folder.name]) == {
        "secrets": [folder.name], "folders": [], "logs": [], "trouble": None,
    }  # fmt: skip
    age(folder, 31)
    assert tidy(root, ended=[folder.name])["folders"] == [folder.name]


def test_old_files_of_ended_jobs_go_from_the_logs(root: Path) -> None:
    logs = root / "logs"
    old = ["7.log", "end-7.json", "connection-7.json", "heartbeat-7.json", "end-7.json.12.tmp", "end-7.json.tmp"]
    batch_jobs = ["bouchet-download-x-abcdefghijkl.log"]
    kept = ["README", "8.log", "connection-8.json", "notes.log", "7.log.gz", "bouchet-download-y-abcdefghijkl.log"]
    for name in (*old, *batch_jobs, *kept):
        write(logs / name, 31)
    write(logs / "9.log")
    found = tidy(root, live_ids=[8], live=["bouchet-download-y-abcdefghijkl"])
    assert found["logs"] == sorted([*old, *batch_jobs])
    assert names_in(logs) == sorted([*kept, "9.log"])


def test_without_a_number_of_days_only_keys_go(root: Path) -> None:
    folder = job(root, "bouchet-aa-1", days=999)
    write(root / "logs" / "7.log", 999)
    found = tidy(root, keep_days=None, ended=[folder.name])
    assert (found["secrets"], found["folders"], found["logs"]) == ([folder.name], [], [])


def test_what_is_not_a_job_of_ours_is_left_alone(root: Path, tmp_path: Path) -> None:
    elsewhere = job(tmp_path / "elsewhere", "bouchet-aa-1", days=99)
    job(root, "thesis", days=99)
    (root / "jobs" / "bouchet-aa-1").symlink_to(elsewhere)
    write(root / "jobs" / "bouchet-file-1", 99)
    (root / "logs" / "7.log").mkdir(parents=True)
    age(root / "logs" / "7.log", 99)
    (root / "logs" / "8.log").symlink_to(elsewhere / "spec.json")
    found = tidy(root, ended=["bouchet-aa-1", "thesis", "../jobs/thesis"])
    assert found == {"secrets": [], "folders": [], "logs": [], "trouble": None}
    assert (elsewhere / "key").exists() and (root / "jobs" / "thesis" / "key").exists()


def test_what_another_user_has_put_there_is_left_alone(root: Path, tidying: ModuleType) -> None:
    foreign = Path("/")
    if os.geteuid() == 0:
        foreign = job(root, "bouchet-aa-1", days=99)
        os.chown(foreign, 4321, -1)
        assert tidy(root, ended=[foreign.name]) == {"secrets": [], "folders": [], "logs": [], "trouble": None}
    assert not tidying.is_own(str(foreign), stat.S_ISDIR) and tidying.is_own(str(root.parent), stat.S_ISDIR)


def test_what_cannot_be_removed_is_told_and_keeps_nothing_else(root: Path, tidying: ModuleType) -> None:
    work = tidying.Tidying({"root": str(root), "live": [], "live_ids": [], "ended": [], "keep_days": 30}, time.time())

    def act(name: str) -> bool:
        if name == "stuck":
            raise PermissionError(errno.EACCES, "Permission denied", "/jobs/stuck")
        return True

    assert [work.done(act, name) for name in ("stuck", "old")] == [False, True]
    assert work.trouble == "/jobs/stuck: Permission denied"


def test_a_disk_that_is_slow_ends_the_go(root: Path, tidying: ModuleType) -> None:
    job(root, "bouchet-aa-1", days=31)
    work = tidying.Tidying({"root": str(root), "live": [], "live_ids": [], "ended": [], "keep_days": 30}, time.time())
    work.deadline = time.monotonic() - 1
    assert work.all()["folders"] == [] and "left for the next time" in work.trouble
