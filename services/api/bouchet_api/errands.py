"""What the API asks of the worker: errands by name, so that neither imports the other."""

from __future__ import annotations

import time
from typing import Any

from bouchet_core.errors import BouchetError
from bouchet_core.store import Store
from rq import Queue
from rq.job import Job

QUEUE = "errands"
SUBMIT = "bouchet_worker.errands.submit"
STOP = "bouchet_worker.errands.stop"
# an errand waits at the gateway for a person (Duo) at most this long
ERRAND_TIMEOUT_S = 300
# finished ones are of no use to anybody; failed ones stay for a week to be looked at
RESULT_TTL_S = 60
FAILURE_TTL_S = 7 * 24 * 3600
ERRANDS = "bouchet_worker.errands."
# how often a waiting question looks for its answer
LOOK_S = 0.02


class WorkerSilent(BouchetError):
    """The worker did not answer a question in time."""

    kind = "worker_silent"

    def __init__(self, question: str, waited_s: float) -> None:
        super().__init__(f"the worker did not answer {question!r} within {waited_s:.0f} s; see `make logs`")


class WorkerSaid(BouchetError):
    """The error that the worker met; `kind` is that error's."""

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        super().__init__(detail)


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

    def ask(self, question: str, *arguments: Any, wait_s: float = 20.0) -> Any:
        """Has the worker's errand `question` answered: the JSON that it returns. Arguments are JSON too.

        Raises WorkerSilent after wait_s, and WorkerSaid for an error that the worker met.
        """
        with Store.errors_mapped():
            job = self._queue.enqueue_call(
                ERRANDS + question,
                args=arguments,
                timeout=ERRAND_TIMEOUT_S,
                ttl=max(1, int(wait_s)),  # nobody waits for it any longer
                result_ttl=RESULT_TTL_S,
                failure_ttl=RESULT_TTL_S,
                description=question,
            )
            said = _result(job, wait_s)
        if said is None:
            raise WorkerSilent(question, wait_s)
        if "kind" in said:
            raise WorkerSaid(said["kind"], said["detail"])
        return said["answer"]

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


def _result(job: Job, wait_s: float) -> dict[str, Any] | None:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        result = job.latest_result()
        if result is not None:
            # an errand that raised says so in the worker's log
            return result.return_value or {"kind": "error", "detail": "the worker failed; `make logs` shows why"}
        time.sleep(LOOK_S)
    return None
