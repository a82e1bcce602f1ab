"""Programs that we run: argv lists in, text out, failures as CommandFailed.

Every child is in `_running` while it lives, so that Ctrl-C can end all of them, those of other threads too.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .errors import CommandFailed, DiskFull, SetupError, ToolMissing

_running: set[subprocess.Popen[str]] = set()
_lock = threading.Lock()
_interrupted = threading.Event()

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
    except (CommandFailed, ToolMissing):
        return None


def failure(argv: Sequence[str], status: int, output: str) -> CommandFailed:
    """The error for a program that said no."""
    kind = DiskFull if "no space left on device" in output.lower() else CommandFailed
    return kind(argv, status, output)


def end_all() -> None:
    """Terminate every program that still runs, and let none start: for Ctrl-C."""
    _interrupted.set()
    with _lock:
        children = list(_running)
    for child in children:
        child.terminate()


def allow_again() -> None:
    """Programs may start again: what cleans up after Ctrl-C needs them."""
    _interrupted.clear()


def _start(argv: Sequence[str], env: Environ | None, cwd: Path | None, stdin: str | None) -> subprocess.Popen[str]:
    if _interrupted.is_set():
        raise SetupError("interrupted")
    try:
        process = subprocess.Popen(
            list(argv),
            env={**os.environ, **env} if env is not None else None,
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as exc:
        raise ToolMissing(str(argv[0]), "install it, or put it on PATH") from exc
    with _lock:
        _running.add(process)
    return process


def _feed(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.close()


def _forget(process: subprocess.Popen[str]) -> None:
    with _lock:
        _running.discard(process)
    if process.poll() is None:
        process.terminate()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
