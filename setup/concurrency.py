"""Independent steps at once, in threads; and one make command at a time on one stack."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

from . import command
from .docker.stack import Stack
from .errors import AlreadyRunningError


def run_together(*jobs: Callable[[], None]) -> None:
    """Run all; when one fails, the programs that the others run are ended, and the first error is raised."""
    with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            done, _ = wait(futures, return_when="FIRST_EXCEPTION")
            for future in done:
                future.result()
        except BaseException:
            command.end_all()
            wait(futures)
            command.allow_again()
            raise


@contextmanager
def sole_use(stack: Stack) -> Iterator[None]:
    """AlreadyRunningError if another make command works on this stack; released by the kernel if we die."""
    stack.cache_dir.mkdir(exist_ok=True)
    with stack.lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise AlreadyRunningError(stack.project) from exc
        yield
