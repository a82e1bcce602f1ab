"""A receiver of messages, and the notifier as a process beside a real Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bouchet_core.store import Store

from tests.conftest import RedisServer
from tests.notifier.receiver import Receiver, running_receiver

StartNotifier = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def worker_store(redis_server: RedisServer) -> Iterator[Store]:
    """Yield a store with the worker's rights, which appends notices."""
    store = redis_server.store("worker")
    yield store
    store.close()


@pytest.fixture
def start_notifier(redis_server: RedisServer, tmp_path: Path) -> Iterator[StartNotifier]:
    """Yield a function that starts the notifier as its container does, with these targets; its log is a file."""
    with ExitStack() as stack:

        def start(*urls: str, **environment: str) -> subprocess.Popen[bytes]:
            for name, value in (("redis_password", redis_server.password), ("notify_urls", " ".join(urls))):
                (tmp_path / name).write_text(value)
            log = stack.enter_context((tmp_path / "notifier.log").open("ab"))
            own = {
                "REDIS_HOST": "127.0.0.1",
                "REDIS_PORT": str(redis_server.port),
                "SECRETS_DIR": str(tmp_path),
                "HEARTBEAT_FILE": str(tmp_path / "heartbeat"),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            }
            argv = [sys.executable, "-m", "bouchet_notifier"]
            kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
            process = subprocess.Popen(argv, env={**kept, **own, **environment}, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start
