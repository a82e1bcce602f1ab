"""Making unrecorded jobs: by a loss of Redis, and by another installation on the same cluster."""

from __future__ import annotations

from collections.abc import Callable

import redis
from bouchet_core.store import Store
from bouchet_worker.launch.submit import submit

from tests.conftest import RedisServer
from tests.worker.scenario import Clock, MakeWorkerContext, requested

OTHER_SECRET = "the secret of another installation"


def flush(redis_server: RedisServer) -> None:
    """Delete everything in Redis."""
    connection = redis_server.store().queue_connection()
    connection.flushall()
    connection.close()


def launch_elsewhere(make_context: MakeWorkerContext, store: Store, clock: Clock, identity: str = "bb") -> int:
    """Submit a job as another installation does, and return its Slurm id. Its record has to be removed by `flush`."""
    store.create(requested(identity, clock(), partition="gpu_h200"))
    submit(make_context("elsewhere", serving_secret=OTHER_SECRET), identity)
    job = store.get(identity).job
    assert job is not None and job.slurm_id is not None
    return job.slurm_id


def body_of(server: RedisServer, deployment: str, change: Callable[[str], str]) -> None:
    """Change the stored text of a record, as another version would store it."""
    with redis.Redis(port=server.port, password=server.password, decode_responses=True) as client:
        key = f"bouchet:deployment:{deployment}"
        client.hset(key, "body", change(str(client.hget(key, "body"))))
