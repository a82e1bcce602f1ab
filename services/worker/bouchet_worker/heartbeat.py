"""The container's health check, `python -m bouchet_worker.heartbeat`: whether this worker's heartbeat is recent."""

from __future__ import annotations

import os
import sys

from bouchet_core.errors import BouchetError
from bouchet_core.store import Store
from bouchet_core.tasks import HEARTBEAT

from .settings import WorkerSettings


def main() -> int:
    """Return 0 with a recent heartbeat; 1 without one, or when the store does not answer, after printing which."""
    try:
        settings = WorkerSettings.from_environment(os.environ)
        store = Store.connect(settings.redis_login)
        if store.beats(f"{HEARTBEAT}:{settings.owner}"):
            return 0
    except BouchetError as exc:
        print(exc, file=sys.stderr)
        return 1
    print("no recent heartbeat of the worker", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
