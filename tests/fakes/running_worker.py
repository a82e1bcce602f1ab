"""The worker as a process, as its container starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.slurm_gateway import TOKEN

REPOSITORY = Path(__file__).parents[2]
SERVING_SECRET = "serving-secret"


def worker_environment(
    directory: Path, *, redis_port: int, gateway_url: str, slot_port: int = 1, slots: int = 4
) -> dict[str, str]:
    """Return its environment; its secrets are written into `directory`."""
    for name, value in (("redis_password", "secret"), ("gateway_token", TOKEN), ("serving_secret", SERVING_SECRET)):
        (directory / name).write_text(value)
    return {
        **os.environ,
        "BOUCHET_SITE_FILE": str(REPOSITORY / "sites" / "demo.yaml"),
        "BOUCHET_CATALOG": str(REPOSITORY / "models.yaml"),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_port),
        "GATEWAY_URL": gateway_url,
        "SLOT_HOST": "127.0.0.1",
        "SLOT_BASE_PORT": str(slot_port),
        "SLOT_COUNT": str(slots),
        "HEARTBEAT_FILE": str(directory / "heartbeat"),
        "REMOTE_DIR": str(REPOSITORY / "remote"),
        "SECRETS_DIR": str(directory),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


@contextmanager
def running_worker(environment: Mapping[str, str], name: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Run the process, and kill it in the end. name: the name of its container."""
    process = subprocess.Popen([sys.executable, "-m", "bouchet_worker"], env={**environment, "WORKER_NAME": name})
    try:
        yield process
    finally:
        process.kill()
        process.wait()
