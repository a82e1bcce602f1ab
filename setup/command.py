"""Programs: run as argv lists, failures raised as CommandFailedError; missing ones are installed with apt.

Every child is in `_running` while it lives, so that Ctrl-C can end all of them, those of other threads too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from .errors import CommandFailedError, DiskFullError, SetupError, ToolMissingError
from .progress import Progress

_running: set[subprocess.Popen[str]] = set()
_lock = threading.Lock()
_interrupted = threading.Event()

GRACE_S = 5  # for a program to clean up after SIGINT, then SIGTERM

Environ = Mapping[str, str]
OnLine = Callable[[str], None]


def run(
    argv: Sequence[str],
    *,
    env: Environ | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    on_line: OnLine | None = None,
    timeout_s: float | None = None,
) -> str:
    """Run `argv` to its end and return what it printed, both streams. `on_line` sees each line as it comes.

    timeout_s: it is ended after that time, which counts as a failure.
    """
    process = _start(argv, env, cwd, stdin)
    lines: list[str] = []
    # macOS has no program that limits the time of another
    limit = threading.Timer(timeout_s or 0.0, _end, [[process]])
    if timeout_s is not None:
        limit.start()
    try:
        if stdin is not None:
            _feed(process, stdin)
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if on_line is not None and line.strip():
                on_line(line.rstrip())
        status = process.wait()
    finally:
        limit.cancel()
        _forget(process)
    output = "".join(lines)
    if status:
        raise failure(argv, status, output)
    return output


def try_run(
    argv: Sequence[str], *, env: Environ | None = None, cwd: Path | None = None, timeout_s: float | None = None
) -> str | None:
    """Run `argv` and return None if the program is missing, fails or takes too long: for queries."""
    try:
        return run(argv, env=env, cwd=cwd, timeout_s=timeout_s)
    except (CommandFailedError, ToolMissingError):
        return None


def failure(argv: Sequence[str], status: int, output: str) -> CommandFailedError:
    """Make the error for a program that failed."""
    kind = DiskFullError if "no space left on device" in output.lower() else CommandFailedError
    return kind(argv, status, output)


def end_all() -> None:
    """Interrupt every program that still runs, with all that it started, and let none start: for Ctrl-C."""
    with _lock:
        _interrupted.set()
        children = list(_running)
    _end(children)


def allow_again() -> None:
    """Allow programs to start again: cleaning up after Ctrl-C needs them."""
    _interrupted.clear()


def _start(argv: Sequence[str], env: Environ | None, cwd: Path | None, stdin: str | None) -> subprocess.Popen[str]:
    # one that starts while all are ended must be seen by whoever ends them
    with _lock:
        if _interrupted.is_set():
            raise SetupError("interrupted")
        process = _open(argv, env, cwd, stdin)
        _running.add(process)
    return process


def _open(argv: Sequence[str], env: Environ | None, cwd: Path | None, stdin: str | None) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            list(argv),
            env={**os.environ, **env} if env is not None else None,
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,  # so that a signal reaches what it starts, too; the terminal's Ctrl-C comes through us
        )
    except FileNotFoundError as exc:
        raise ToolMissingError(str(argv[0]), "install it, or put it on PATH") from exc


def _feed(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.close()


def _forget(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        _end([process])
    with _lock:
        _running.discard(process)
    if process.stdout is not None:
        process.stdout.close()


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ask, then insist, until nothing of their process groups is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_S
        left = [process for process in processes if _signal(process, number)]
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = [process for process in left if _signal(process, 0)]
        if not left:
            return


def _signal(process: subprocess.Popen[str], number: int) -> bool:
    """Send a signal to a process group; False if none is left.

    poll() reaps the leader, which would count as alive otherwise.
    """
    process.poll()
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


QUIET: Environ = {"DEBIAN_FRONTEND": "noninteractive"}


def can_install() -> bool:
    """Tell whether apt is available to this user."""
    return os.getuid() == 0 and shutil.which("apt-get") is not None


def ensure_program(progress: Progress, program: str, packages: Sequence[str], advice: str = "") -> None:
    """Make sure that `program` is on PATH, by apt if need be."""
    if shutil.which(program) is None:
        install(progress, program, packages, advice)


def install(progress: Progress, what: str, packages: Sequence[str], advice: str = "") -> None:
    """Install Debian packages and show it; ToolMissingError without the rights to do so."""
    wanted = " ".join(packages)
    if not can_install():
        raise ToolMissingError(what, advice or f"install it (on Debian and Ubuntu: `sudo apt-get install {wanted}`)")
    with progress.step(f"installing {wanted} (apt)") as step:
        run(["apt-get", "update"], env=QUIET)
        known = [name for name in packages if try_run(["apt-cache", "show", name])]  # names differ between releases
        run(
            ["apt-get", "install", "-y", "--no-install-recommends", *(known or packages)],
            env=QUIET,
            on_line=step.say,
        )


def run_together(*jobs: Callable[[], None]) -> None:
    """Run all jobs in threads. If one fails, the programs of the others are ended, and the first error is raised."""
    with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            done, _ = wait(futures, return_when="FIRST_EXCEPTION")
            for future in done:
                future.result()
        except BaseException:
            end_all()
            wait(futures)
            allow_again()
            raise
