"""A real PostgreSQL server on a port of its own, its data in a folder of the test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.conftest import free_port
from tests.waiting import wait_for

START_TIMEOUT_S = 60.0
PASSWORD = "password-of-the-tests"


@dataclass
class PostgresServer:
    """A running server; `process` may be stopped by tests of faults."""

    port: int
    data: Path
    process: subprocess.Popen[bytes]
    _numbers: Iterator[int] = field(default_factory=count)

    def new_database(self) -> str:
        """Make an empty database, and return its URL."""
        name = f"ledger{next(self._numbers)}"
        self.query("postgres", f"CREATE DATABASE {name}")
        return f"postgresql://ledger:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def query(self, database: str, sql: str) -> str:
        """Run one statement and return what psql prints."""
        argv = [
            "psql",
            "--no-psqlrc",
            "-qtA",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "ledger",
            "-c",
            sql,
            database,
        ]
        done = subprocess.run(argv, env=_environment(), check=True, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    def stop(self) -> None:
        """Stop the server at once."""
        self.process.kill()
        self.process.wait()


def program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, which Debian puts beside the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name) or next((str(f / name) for f in folders if (f / name).exists()), None)
    assert found, f"{name} is not installed; `make tools` installs PostgreSQL where it can"
    return found


@contextmanager
def running_postgres(directory: Path) -> Iterator[PostgresServer]:
    """Start a server with its data in the folder."""
    data, secret = directory / "data", directory / "password"
    secret.write_text(PASSWORD)
    _give_to_owner(directory)
    options = ["--auth=scram-sha-256", "--username=ledger", f"--pwfile={secret}", "--encoding=UTF8", "--no-locale"]
    subprocess.run([program("initdb"), f"--pgdata={data}", *options], check=True, capture_output=True, user=_owner())
    server = start_postgres(data, free_port())
    try:
        yield server
    finally:
        # at once: SIGTERM waits until every client has gone, and one that a failed test left would stay
        server.process.send_signal(signal.SIGINT)
        server.process.wait(timeout=30)


def start_postgres(data: Path, port: int) -> PostgresServer:
    """Start a server over data that exists."""
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    argv = [program("postgres"), "-D", str(data), "-p", str(port), *options]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=_owner())
    server = PostgresServer(port, data, process)
    wait_for(lambda: process.poll() is not None or _answers(server), START_TIMEOUT_S)
    assert process.poll() is None, "PostgreSQL did not start"
    return server


def _answers(server: PostgresServer) -> bool:
    try:
        return server.query("postgres", "SELECT 1") == "1"
    except subprocess.CalledProcessError:
        return False


def _owner() -> str | None:
    """Return who runs the server where that is not us: PostgreSQL refuses to run as root."""
    return "postgres" if os.getuid() == 0 else None


def _give_to_owner(directory: Path) -> None:
    if os.getuid() != 0:
        return
    owner = pwd.getpwnam("postgres")
    for path in (directory, *directory.iterdir()):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    for parent in directory.parents:
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)


def _environment() -> dict[str, str]:
    return {**os.environ, "PGPASSWORD": PASSWORD, "PGCONNECT_TIMEOUT": "5"}
