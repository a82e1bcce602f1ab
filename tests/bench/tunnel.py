"""The gateway against OpenSSH's `ssh -L`: same sshd, same server behind it, same client, turn by turn.

Both are processes on this machine; their CPU is what the kernel charged them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import RedisServer, free_port, start_redis
from tests.gateway.conftest import serve_behind

from . import upstream
from .figures import Figure

ROUNDS = 5
LATENCY_ASKS = 600
BUSY_CONNECTIONS, BUSY_ASKS = 64, 60
STREAMS = 64
STALLED, STALLED_S = 64, 20.0
WAIT_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")
_BODY = b"x" * upstream.REQUEST


@dataclass(frozen=True)
class Way:
    """A tunnel under test: where it listens here, and the process that carries it."""

    name: str
    port: int
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds that it has used."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / _TICKS

    def memory_mib(self) -> float:
        """Resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def compare_with_ssh() -> list[Figure]:
    """Latency, CPU, throughput, streams, and memory under readers that stall."""
    with tempfile.TemporaryDirectory(prefix="bouchet-bench-") as folder, _ways(Path(folder)) as (ours, ssh):
        return [
            *_ratios("p50 of a 0.5 KB request, 1 connection", "ms", 1.1, ours, ssh, _latency_ms),
            *_ratios(f"CPU a request, {BUSY_CONNECTIONS} connections", "us", 2.5, ours, ssh, _cpu_us),
            *_ratios("bulk", "MB/s", 0.8, ours, ssh, _bulk_mb_s, more_is_better=True),
            *_streams(ours, ssh),
            _stalled(ours),
        ]


_Measure = Callable[[Way], Coroutine[Any, Any, float]]


def _ratios(
    title: str, unit: str, promise: float, ours: Way, ssh: Way, measure: _Measure, *, more_is_better: bool = False
) -> list[Figure]:
    """The median of each way, and their ratio beside its promise; the ways take turns."""
    seen: dict[str, list[float]] = {ours.name: [], ssh.name: []}
    for _ in range(ROUNDS):
        for way in (ours, ssh):
            seen[way.name].append(asyncio.run(measure(way)))
    mine, theirs = statistics.median(seen[ours.name]), statistics.median(seen[ssh.name])
    note = f"gateway {mine:.2f} {unit}, ssh -L {theirs:.2f} {unit}, medians of {ROUNDS}"
    return [Figure(f"tunnel: {title}, ratio to ssh -L", mine / theirs, "x", promise, note, at_least=more_is_better)]


async def _latency_ms(way: Way) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    writer.write(b"r")
    took = []
    for _ in range(LATENCY_ASKS):
        began = time.perf_counter()
        writer.write(_BODY)
        await reader.readexactly(len(_BODY))
        took.append(time.perf_counter() - began)
    writer.close()
    return statistics.median(took) * 1000


async def _cpu_us(way: Way) -> float:
    async def talk() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        writer.write(b"r")
        for _ in range(BUSY_ASKS):
            writer.write(_BODY)
            await reader.readexactly(len(_BODY))
        writer.close()

    before = way.cpu_s()
    await asyncio.gather(*(talk() for _ in range(BUSY_CONNECTIONS)))
    return (way.cpu_s() - before) / (BUSY_CONNECTIONS * BUSY_ASKS) * 1e6


async def _bulk_mb_s(way: Way) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    began, size = time.perf_counter(), 0
    writer.write(b"b")
    while piece := await reader.read(1 << 20):
        size += len(piece)
    writer.close()
    assert size == upstream.BULK, f"{size} of {upstream.BULK} bytes came through {way.name}"
    return size / (time.perf_counter() - began) / 1e6


def _streams(ours: Way, ssh: Way) -> list[Figure]:
    """Share of a core for many slow streams, and how late their events came."""
    found: dict[str, tuple[float, float]] = {}
    for way in (ours, ssh):
        before, began = way.cpu_s(), time.monotonic()
        late = asyncio.run(_listen(way))
        found[way.name] = (way.cpu_s() - before) / (time.monotonic() - began) * 100, late
    share, late = found[ours.name]
    note = (
        f"ssh -L {found[ssh.name][0]:.1f} %; p99 of an event's way: {late:.1f} ms, ssh -L {found[ssh.name][1]:.1f} ms"
    )
    return [Figure(f"tunnel: {STREAMS} streams x {upstream.EVENTS_PER_S} events/s", share, "% of a core", 8, note)]


async def _listen(way: Way) -> float:
    """The 99th percentile of the time from an event's sending to its coming, in ms."""
    late: list[float] = []

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        writer.write(b"s")
        for _ in range(upstream.STREAM_EVENTS):
            event = await reader.readexactly(upstream.EVENT)
            late.append(time.monotonic() - struct.unpack("d", event[:8])[0])
        writer.close()

    await asyncio.gather(*(one() for _ in range(STREAMS)))
    return sorted(late)[int(len(late) * 0.99)] * 1000


def _stalled(ours: Way) -> Figure:
    """Memory with readers that take a little and then nothing, from servers that send all they can."""

    async def stall() -> list[float]:
        pairs = [await asyncio.open_connection("127.0.0.1", ours.port, limit=4096) for _ in range(STALLED)]
        for _, writer in pairs:
            writer.write(b"f")
        seen = []
        for _ in range(int(STALLED_S)):
            await asyncio.sleep(1)
            seen.append(ours.memory_mib())
        for _, writer in pairs:
            writer.transport.abort()
        return seen

    seen = asyncio.run(stall())
    half = len(seen) // 2
    note = f"after 1 s {seen[0]:.0f}, {half} s {seen[half]:.0f}, {len(seen)} s {seen[-1]:.0f} MiB"
    return Figure(f"tunnel: memory with {STALLED} stalled readers", max(seen), "MiB", 150, note)


# what is started for it


@contextmanager
def _ways(folder: Path) -> Iterator[tuple[Way, Way]]:
    """The gateway and `ssh -L`, each with a connection to one sshd, leading to one server."""
    with ExitStack() as running:

        def start(*argv: str, **environ: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(argv, env={**os.environ, **environ}, cwd=folder)
            running.callback(process.wait)
            running.callback(process.terminate)
            return process

        port_file = folder / "port"
        start(sys.executable, upstream.__file__, str(port_file))
        target = int(_eventually(lambda: port_file.read_text() if port_file.is_file() else ""))
        sshd_port = _start_sshd(folder, start)
        ssh = _start_ssh(folder, sshd_port, target, start)
        redis = _redis(folder, running)
        ours = _start_gateway(folder, sshd_port, redis, start)
        serve_behind(redis.store(), 0, target)
        for way in (ours, ssh):
            _eventually(lambda way=way: asyncio.run(_answers(way)))
        yield ours, ssh


_Start = Callable[..., "subprocess.Popen[bytes]"]


def _redis(folder: Path, running: ExitStack) -> RedisServer:
    data = folder / "redis"
    data.mkdir()
    server = start_redis(data, free_port())
    running.callback(server.stop)
    return server


def _start_sshd(folder: Path, start: _Start) -> int:
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


def _start_ssh(folder: Path, sshd_port: int, target: int, start: _Start) -> Way:
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


def _start_gateway(folder: Path, sshd_port: int, redis: RedisServer, start: _Start) -> Way:
    secrets, slots = folder / "secrets", free_port()
    secrets.mkdir()
    (secrets / "gateway_token").write_text("bench\n")
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


async def _answers(way: Way) -> bool:
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
            writer.write(b"r" + _BODY)
            answer = await reader.readexactly(len(_BODY))
            writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return answer == _BODY


def _eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"a part of the bench did not start within {WAIT_S:.0f} s")


if __name__ == "__main__":
    from .figures import render

    print(render(compare_with_ssh()))
