"""Running programs: their output kept for the error message, their time shown."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

TAIL_LINES = 15
TICK_S = 5.0


class ProvisionError(Exception):
    """The demo cannot be set up; the message says what to do."""


@dataclass
class ProgramFailedError(ProvisionError):
    """A program failed. `output` is both of its streams."""

    argv: Sequence[str]
    exit_status: int
    output: str

    def __str__(self) -> str:
        full = [line.strip() for line in self.output.splitlines() if "No space left on device" in line]
        if full:
            return f"the disk is full; free some space and repeat (`docker system df` shows its users): {full[-1]}"
        return f"`{' '.join(self.argv[:6])} ...` ended with status {self.exit_status}:\n{self._tail}"

    @property
    def _tail(self) -> str:
        return "\n".join(self.output.strip().splitlines()[-TAIL_LINES:])


def run(argv: Sequence[str], *, timeout_s: float, environ: Mapping[str, str] | None = None) -> str:
    """Run a program and return its stdout; ProgramFailedError if it fails, is missing or takes too long."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as exc:
        raise ProgramFailedError(argv, 127, f"{argv[0]} is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise ProgramFailedError(argv, 124, f"timed out after {timeout_s:.0f} s") from exc
    if done.returncode != 0:
        raise ProgramFailedError(argv, done.returncode, done.stdout + done.stderr)
    return done.stdout


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print the title, the elapsed time every few seconds, and the total time."""
    began = time.monotonic()
    ended = threading.Event()

    def say(ending: str) -> None:
        print(f"{title} ... {time.monotonic() - began:.0f} s{ending}", flush=True)

    def tick() -> None:
        while not ended.wait(TICK_S):
            say("")

    print(f"{title} ...", flush=True)
    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    except BaseException:
        say(", failed")
        raise
    else:
        say(", done")
    finally:
        ended.set()
        ticker.join()
