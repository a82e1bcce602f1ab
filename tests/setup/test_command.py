"""Programs that we run: their failures are sentences, and Ctrl-C ends them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from setup import command
from setup.command import run, run_together, try_run
from setup.errors import CommandFailedError, DiskFullError, SetupError, ToolMissingError

PYTHON = sys.executable
LONG_S = 60


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    command.allow_again()


def test_run_returns_both_streams_and_reports_each_line() -> None:
    seen: list[str] = []
    code = "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True); print()"
    assert command.run([PYTHON, "-c", code], on_line=seen.append) == "one\ntwo\n\n"
    assert seen == ["one", "two"]


def test_run_passes_standard_input_and_environment() -> None:
    code = "import os, sys; print(sys.stdin.read() + os.environ['X'])"
    assert command.run([PYTHON, "-c", code], stdin="in ", env={"X": "out"}) == "in out\n"


def test_run_failing_program_repeats_its_output() -> None:
    with pytest.raises(CommandFailedError, match="status 3") as caught:
        command.run([PYTHON, "-c", "print('the reason'); raise SystemExit(3)"])
    assert "the reason" in str(caught.value)


def test_run_full_disk_names_next_step() -> None:
    with pytest.raises(DiskFullError, match="free some space"):
        command.run([PYTHON, "-c", "raise SystemExit('write /x: no space left on device')"])


def test_run_ends_a_program_that_takes_too_long_with_all_that_it_started() -> None:
    began = time.monotonic()
    with pytest.raises(CommandFailedError):
        run(["sh", "-c", "sleep 120 & wait"], timeout_s=0.3)
    assert time.monotonic() - began < 60
    assert try_run(["sleep", "120"], timeout_s=0.3) is None
    assert run(["echo", "done"], timeout_s=60) == "done\n"


def test_run_missing_program_is_named() -> None:
    with pytest.raises(ToolMissingError, match="no-such-program-here"):
        command.run(["no-such-program-here"])
    assert command.try_run(["no-such-program-here"]) is None


def test_run_together_failure_ends_the_others(tmp_path: Path) -> None:
    started = time.monotonic()

    def fail() -> None:
        _until_there(tmp_path / "runs")
        raise SetupError("the first")

    with pytest.raises(SetupError, match="the first"):
        run_together(lambda: _sleep(tmp_path / "runs"), fail)
    assert time.monotonic() - started < LONG_S / 2
    assert command.run([PYTHON, "-c", "print(1)"]) == "1\n", "programs may start again"


def test_run_together_runs_all_jobs() -> None:
    done: list[int] = []
    run_together(lambda: done.append(1), lambda: done.append(2))
    assert sorted(done) == [1, 2]


def test_end_all_ends_programs_of_other_threads(tmp_path: Path) -> None:
    thread = threading.Thread(target=_sleep, args=(tmp_path / "runs",))
    thread.start()
    _until_there(tmp_path / "runs")
    command.end_all()
    thread.join(timeout=LONG_S / 2)
    assert not thread.is_alive()


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.003])
def test_end_all_ends_program_that_starts_meanwhile(tmp_path: Path, after_s: float) -> None:
    def work() -> None:
        with contextlib.suppress(SetupError):
            _sleep(tmp_path / "runs")

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(after_s)
    command.end_all()
    thread.join(timeout=LONG_S / 2)
    assert not thread.is_alive()


@pytest.mark.slow
def test_end_all_ends_whole_process_group(tmp_path: Path) -> None:
    """As `docker compose exec` under a provisioning script."""
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    thread = threading.Thread(target=command.try_run, args=(["bash", "-c", script],))
    thread.start()
    _until_there(tmp_path / "pid")
    command.end_all()
    thread.join(timeout=LONG_S / 2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def _sleep(mark: Path) -> None:
    """Return a program that runs for LONG_S and makes a file when it starts."""
    command.try_run(["bash", "-c", 'echo runs > "$1"; exec sleep "$2"', "bash", str(mark), str(LONG_S)])


def _until_there(mark: Path) -> None:
    while not mark.exists() or not mark.read_text():
        time.sleep(0.02)


def test_main_expected_failure_prints_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [PYTHON, "-m", "setup", "env"],
        env={"PATH": "/usr/bin:/bin", "COMPOSE_PROJECT_NAME": "Bad Name"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: COMPOSE_PROJECT_NAME") and "Traceback" not in done.stderr
