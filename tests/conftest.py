"""What every test may ask for: a real Redis of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bouchet_core.store import Store

START_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class RedisServer:
    """A running redis-server. `process` may be stopped by tests of faults."""

    port: int
    password: str
    process: subprocess.Popen[bytes]

    def store(self) -> Store:
        """A store on this server."""
        return Store.connect("127.0.0.1", self.port, self.password)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_redis(directory: Path, port: int) -> RedisServer:
    """A real redis-server, answering, its data in `directory`."""
    binary = shutil.which("redis-server")
    assert binary, "redis-server is not installed; `make test-fast` installs it where it can"
    config = directory / "redis.conf"
    config.write_text(
        f"bind 127.0.0.1\nport {port}\ndir {directory}\nrequirepass secret\nappendonly yes\nsave ''\nloglevel warning\n"
    )
    process = subprocess.Popen([binary, str(config)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return RedisServer(port, "secret", process)
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"redis-server did not listen on {port} within {START_TIMEOUT_S} s")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty Redis of the test's own, on a free port."""
    directory = tmp_path / "redis"
    directory.mkdir()
    server = start_redis(directory, free_port())
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    """An empty store."""
    store = redis_server.store()
    yield store
    store.close()
