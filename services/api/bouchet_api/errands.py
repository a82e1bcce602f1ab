"""What the API asks of the worker: errands by name, so that neither imports the other."""

from __future__ import annotations

from bouchet_core.store import Store
from rq import Queue

QUEUE = "errands"
SUBMIT = "bouchet_worker.errands.submit"
STOP = "bouchet_worker.errands.stop"
# an errand waits at the gateway for a person (Duo) at most this long
ERRAND_TIMEOUT_S = 300
# finished ones are of no use to anybody; failed ones stay for a week to be looked at
RESULT_TTL_S = 60
FAILURE_TTL_S = 7 * 24 * 3600


class Errands:
    """The queue, seen from its writing end. Raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._connection = store.queue_connection()
        self._queue = Queue(QUEUE, connection=self._connection, serializer="json")

    def close(self) -> None:
        """Closes the pooled connections."""
        self._connection.close()

    def submit(self, deployment: str) -> None:
        """Asks the worker to submit a job for the deployment. May be asked twice: the worker adopts what is there."""
        self._enqueue(SUBMIT, deployment)

    def stop(self, deployment: str) -> None:
        """Asks the worker to end the deployment's jobs. May be asked twice."""
        self._enqueue(STOP, deployment)

    def _enqueue(self, errand: str, deployment: str) -> None:
        with Store.errors_mapped():
            self._queue.enqueue_call(
                errand,
                args=(deployment,),
                timeout=ERRAND_TIMEOUT_S,
                result_ttl=RESULT_TTL_S,
                failure_ttl=FAILURE_TTL_S,
                description=f"{errand.rpartition('.')[2]} {deployment}",
            )
