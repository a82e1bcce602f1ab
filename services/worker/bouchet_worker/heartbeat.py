"""`python -m bouchet_worker.heartbeat`: exit status 0 while this container's worker beats."""

from __future__ import annotations

import os
import sys

from bouchet_core.errors import BouchetError
from bouchet_core.store import Store
from bouchet_core.tasks import HEARTBEAT

from .settings import WorkerSettings


def main() -> int:
    """0: beats. 1: does not, or the store cannot be asked; says which."""
    try:
        settings = WorkerSettings.from_environment(os.environ)
        password = settings.redis_password.get_secret_value()
        store = Store.connect(settings.redis_host, settings.redis_port, password)
        if store.beats(f"{HEARTBEAT}:{settings.owner}"):
            return 0
    except BouchetError as exc:
        print(exc, file=sys.stderr)
        return 1
    print("the worker has not said lately that it lives", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
