"""What every test may ask for: a real Redis of its own."""

from __future__ import annotations

import atexit
import fcntl
import gc
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest
from bouchet_core.store import RedisLogin, Store
from bouchet_core.tunnel import JOB_PORTS, TargetSigner
from hypothesis import settings

from setup.files.redis_acl import DEFAULT_USER, USERS, render_acl
from tests import checkout_guard

START_TIMEOUT_S = 60.0
GATEWAY_TOKEN = "test-token"
FIRST_PORT, PORT_SHARES, PORTS_EACH = 12_000, 12, 1_460
# behind slots the gateway accepts only ports that jobs choose; these are above the ones of Ports
FREE_JOB_PORTS = range(FIRST_PORT + PORT_SHARES * PORTS_EACH, JOB_PORTS.stop)

# whoever runs us in the background has Ctrl-C ignored, and our programs would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

checkout_guard.install()

# what a person's .env says for a site file whose directories are everybody's own
os.environ.update(BOUCHET_PROJECT_DIR="~/project", BOUCHET_SCRATCH_DIR="~/scratch")

# for `make test-fast`; the whole run takes hypothesis' own number of examples
settings.register_profile("quick", max_examples=25, deadline=None)
# for `make soak`
settings.register_profile("soak", max_examples=2000, deadline=None)
# a busy machine is no fault of the code's
settings.register_profile("whole", deadline=None)
settings.load_profile("whole")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives as long as the tests do: modules and the collected tests."""
    gc.freeze()


@dataclass(frozen=True)
class RedisServer:
    """A running redis-server, its data in `directory`. `process` may be stopped by tests of faults."""

    port: int
    password: str
    directory: Path
    process: subprocess.Popen[bytes]

    def login(self, user: str | None = None) -> RedisLogin:
        """Return how to log in as the user of a service; without a name: as the test, which may do everything."""
        return RedisLogin("127.0.0.1", self.port, self.password, user)

    def store(self, user: str | None = None) -> Store:
        """Open a store on this server, with the rights of that service; without a name: with all."""
        return Store.connect(self.login(user), TargetSigner(GATEWAY_TOKEN))

    def stop(self) -> None:
        """Kill the server."""
        self.process.kill()
        self.process.wait()


class Ports:
    """Hands out ports one after the other, below the ephemeral range, so that no other program takes one before its
    server listens. Every process of tests has its own share, whatever checkout it runs in.
    """

    def __init__(self, shares: int = PORT_SHARES, folder: Path | None = None) -> None:
        self._shares, self._next = shares, random.randrange(PORTS_EACH)
        self._folder = folder or Path(tempfile.gettempdir()) / f"bouchet-test-ports-{os.getuid()}"
        self._lock: TextIO | None = None
        self._share = 0

    def share(self) -> int:
        """Return the number of this process's share; the lock that holds it lasts as long as the process."""
        if self._lock is None:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            found = next(self._free_shares(), None)
            assert found is not None, f"{self._shares} processes of tests run already"
            self._lock, self._share = found
        return self._share

    def close(self) -> None:
        """Give the share back."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def _free_shares(self) -> Iterator[tuple[TextIO, int]]:
        """Yield a share that no other process has, locked."""
        for share in random.sample(range(self._shares), self._shares):
            file = (self._folder / str(share)).open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            yield file, share

    def take(self, count: int) -> int:
        """Return the first of `count` consecutive free ports. A port comes again after all the others.

        Whoever takes several has servers on some of them later: until then they look as free as any other.
        """
        start = FIRST_PORT + self.share() * PORTS_EACH
        for _ in range(100):
            place = self._next % PORTS_EACH
            place = place if place + count <= PORTS_EACH else 0
            first, self._next = start + place, place + count
            if all(_is_free(port) for port in range(first, first + count)):
                return first
        raise AssertionError(f"no {count} free ports in a row")

    def take_job_port(self) -> int:
        """Return a free port from those that jobs choose."""
        own = FREE_JOB_PORTS[self.share() :: self._shares]
        return next(port for port in random.sample(own, len(own)) if _is_free(port))


PORTS = Ports()
atexit.register(PORTS.close)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 without a listener."""
    return PORTS.take(1)


def free_job_port() -> int:
    """Return a TCP port of 127.0.0.1 without a listener, from those that jobs choose and no other test takes."""
    return PORTS.take_job_port()


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive ports without a listener."""
    return PORTS.take(count)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers_ping(port: int) -> bool:
    """Tell whether a Redis server answers there; one that reads its data listens already, and refuses commands."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=START_TIMEOUT_S) as line:
            line.sendall(b"AUTH secret\r\nPING\r\n")
            answer = b""
            while answer.count(b"\r\n") < 2 and (piece := line.recv(100)):
                answer += piece
    except OSError:
        return False
    return answer.endswith(b"+PONG\r\n")


def start_redis(directory: Path, port: int, fsync: str = "everysec") -> RedisServer:
    """Start a real redis-server with its data in `directory`, and wait until it answers.

    fsync: `always`, as the project's own Redis has it, also keeps what was answered before a mere kill.
    """
    binary = shutil.which("redis-server")
    assert binary, "redis-server is not installed; `make test-fast` installs it where it can"
    config, users = directory / "redis.conf", render_acl(dict.fromkeys(USERS, "secret"))
    # the users of the services, and one for the tests
    users = users.replace(DEFAULT_USER, "user default reset on >secret ~* &* +@all")
    config.write_text(
        f"bind 127.0.0.1\nport {port}\ndir {directory}\nappendonly yes\nappendfsync {fsync}\nsave ''\n"
        f"loglevel warning\n{users}"
    )
    process = subprocess.Popen([binary, str(config)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        # whoever else listens there, it is not a server that has ended
        if answers_ping(port) and process.poll() is None:
            return RedisServer(port, "secret", directory, process)
        time.sleep(0.02)
    process.kill()
    process.wait()
    raise AssertionError(f"redis-server did not listen on {port} within {START_TIMEOUT_S} s")


class RedisPool:
    """Lends one redis-server to test after test, emptied in between; one that a test ended is replaced."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server: RedisServer | None = None
        self._made = 0

    def lend(self) -> RedisServer:
        """Return an empty server that answers."""
        if self._server is None or self._server.process.poll() is not None:
            self._made += 1
            directory = self._directory / f"redis-{self._made}"
            directory.mkdir()
            self._server = start_redis(directory, free_port())
        with socket.create_connection(("127.0.0.1", self._server.port), timeout=START_TIMEOUT_S) as line:
            line.sendall(b"AUTH secret\r\nCLIENT KILL TYPE normal SKIPME yes\r\nFLUSHALL SYNC\r\n")
            answer = b""
            while answer.count(b"\r\n") < 3:
                answer += line.recv(100)
        assert answer.endswith(b"+OK\r\n"), answer
        return self._server

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.stop()


@pytest.fixture(scope="session")
def redis_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisPool]:
    """Yield the pool from which tests borrow a Redis."""
    house = RedisPool(tmp_path_factory.mktemp("redis-pool"))
    yield house
    house.close()


@pytest.fixture
def redis_server(redis_pool: RedisPool) -> RedisServer:
    """Return an empty Redis that belongs to the test; it may end it."""
    return redis_pool.lend()


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    """Yield an empty store."""
    store = redis_server.store()
    yield store
    store.close()
