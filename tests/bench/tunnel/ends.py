"""What tunnels are measured with: an sshd, a server behind it, the gateway and `ssh -L`, processes on this machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from tests.conftest import GATEWAY_TOKEN, RedisServer, free_job_port, free_port, start_redis
from tests.gateway.running import REMOTE, serve_behind
from tests.waiting import wait_for

from . import upstream

Start = Callable[..., "subprocess.Popen[bytes]"]

WAIT_S = 20.0
BODY = b"x" * upstream.REQUEST


@dataclass(frozen=True)
class Way:
    """A tunnel under test: where it listens here, and the process that carries it."""

    name: str
    port: int
    pid: int

    def cpu_s(self) -> float:
        """Return the used CPU seconds, to the nanosecond: a tick is as long as many requests."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def memory_mib(self) -> float:
        """Return the resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def both_ways(folder: Path) -> Iterator[tuple[Way, Way]]:
    """Start the gateway and `ssh -L`, each with a connection to one sshd, leading to one server."""
    with ExitStack() as running:
        start = starter(folder, running)
        target = start_upstream(folder, start)
        sshd_port = start_sshd(folder, start)
        ssh = start_ssh(folder, sshd_port, target, start)
        redis = redis_in(folder, running)
        ours = start_gateway(folder, sshd_port, redis, start)
        serve_behind(redis.store(), 0, target)
        for way in (ours, ssh):
            wait_for(partial(answers_now, way))
        yield ours, ssh


def starter(folder: Path, running: ExitStack) -> Start:
    """Return a function that starts programs in a folder; each is ended when `running` is."""

    def start(*argv: str, **environ: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, env={**os.environ, **environ}, cwd=folder)
        running.callback(process.wait)
        running.callback(process.terminate)
        return process

    return start


def start_upstream(folder: Path, start: Start) -> int:
    """Start the server behind the tunnels; return its port."""
    port_file = folder / "port"
    start(sys.executable, upstream.__file__, str(port_file), str(free_job_port()))
    return int(wait_for(lambda: port_file.read_text() if port_file.is_file() else ""))


def redis_in(folder: Path, running: ExitStack) -> RedisServer:
    """Start a Redis in a folder."""
    data = folder / "redis"
    data.mkdir()
    server = start_redis(data, free_port())
    running.callback(server.stop)
    return server


def start_sshd(folder: Path, start: Start) -> int:
    """Start OpenSSH's server with fresh keys; return its port."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "sshd is not installed (openssh-server); it is what the gateway is compared with"
    for name in ("host_key", "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "id_ed25519.pub").read_text())
    port = free_port()
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        "PidFile none\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    start(program, "-D", "-f", str(folder / "sshd_config"))
    return port


def start_ssh(folder: Path, sshd_port: int, target: int, start: Start) -> Way:
    """Start `ssh -L` to the target."""
    port = free_port()
    options = {
        "UserKnownHostsFile": folder / "known_hosts",
        "IdentityFile": folder / "id_ed25519",
        "IdentitiesOnly": "yes",
        "Ciphers": "aes128-gcm@openssh.com",
        "ConnectionAttempts": 20,
        "ExitOnForwardFailure": "yes",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    forward = f"127.0.0.1:{port}:127.0.0.1:{target}"
    process = start("ssh", "-F", "none", "-N", *words, "-p", str(sshd_port), "-L", forward, "127.0.0.1")
    return Way("ssh -L", port, process.pid)


def start_gateway(folder: Path, sshd_port: int, redis: RedisServer, start: Start) -> Way:
    """Start the gateway; slot 0 leads where the record in Redis points."""
    secrets, slots = folder / "secrets", free_port()
    secrets.mkdir()
    for role, token in (("api", "unused"), ("worker", GATEWAY_TOKEN)):
        (secrets / f"gateway_token_{role}").write_text(f"{token}\n")
    (secrets / "redis_password").write_text(redis.password + "\n")
    site = {
        "name": "bench",
        "login": {"host": "127.0.0.1", "port": sshd_port, "user": os.environ.get("USER", "root")},
        "root": "~/bouchet",
        "models_dir": "~/models",
        "images_dir": "~/images",
        "gpu_type": "h200",
        "default_image": "x",
        "images": [{"pin": "x", "vllm": "0"}],
        "partitions": [{"name": "gpu", "max_walltime": "1:00:00"}],
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    environ = {
        "BOUCHET_SITE_FILE": str(folder / "site.yaml"),
        "BOUCHET_HOST": "",
        "SECRETS_DIR": str(secrets),
        "SSH_DIR": str(folder),
        "REMOTE_DIR": str(REMOTE),
        "SSH_AUTH_SOCK": "",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis.port),
        "GATEWAY_PORT": str(free_port()),
        "SLOT_BASE_PORT": str(slots),
        "SLOT_COUNT": "1",
        "LOG_LEVEL": "WARNING",
    }
    process = start(sys.executable, "-m", "bouchet_gateway", **environ)
    return Way("gateway", slots, process.pid)


def answers_now(way: Way) -> bool:
    """Tell whether the server behind it answers, from synchronous code."""
    return asyncio.run(answers(way))


async def answers(way: Way) -> bool:
    """Tell whether the server behind it answers."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
            writer.write(b"r" + BODY)
            answer = await reader.readexactly(len(BODY))
            writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return answer == BODY
