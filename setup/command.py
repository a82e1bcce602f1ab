"""Programs that we run: argv lists in, text out, failures as CommandFailedError.

Every child is in `_running` while it lives, so that Ctrl-C can end all of them, those of other threads too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .errors import CommandFailedError, DiskFullError, SetupError, ToolMissingError

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
) -> str:
    """Run `argv` to its end and return what it printed, both streams. `on_line` sees each line as it comes."""
    process = _start(argv, env, cwd, stdin)
    lines: list[str] = []
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
        _forget(process)
    output = "".join(lines)
    if status:
        raise failure(argv, status, output)
    return output


def try_run(argv: Sequence[str], *, env: Environ | None = None, cwd: Path | None = None) -> str | None:
    """Like run, but None when the program is not there or says no: for questions, not for work."""
    try:
        return run(argv, env=env, cwd=cwd)
    except (CommandFailedError, ToolMissingError):
        return None


def failure(argv: Sequence[str], status: int, output: str) -> CommandFailedError:
    """The error for a program that said no."""
    kind = DiskFullError if "no space left on device" in output.lower() else CommandFailedError
    return kind(argv, status, output)


def end_all() -> None:
    """Interrupt every program that still runs, with all that it started, and let none start: for Ctrl-C."""
    with _lock:
        _interrupted.set()
        children = list(_running)
    _end(children)


def allow_again() -> None:
    """Programs may start again: what cleans up after Ctrl-C needs them."""
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
    """Whether there still was somebody to signal. poll() buries the leader, which would count as alive else."""
    process.poll()
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
