"""The key of a job as its folder on the cluster holds it, 0600: what its server compares with, whatever we derive.

Both differ once SERVING_SECRET has changed: `.env` was lost and made again, or a clone took over another's volumes.
Then record.json names another installation, too, and would keep a record that is lost later from being made again.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from bouchet_core.deployments import Deployment
from bouchet_core.errors import BouchetError, ClusterUnavailableError, GatewayError, RemoteTimeoutError
from bouchet_core.keys import sealed_key
from pydantic import ValidationError

from bouchet_worker.context import WorkerContext
from bouchet_worker.launch.job_files import JobRecordFile, render_record_file
from bouchet_worker.launch.submit import update_attempt

log = logging.getLogger(__name__)

_KEY_BYTES = 200
# between two reads of one job's key file
READ_AGAIN_S = 30.0


def read_sealed_key(context: WorkerContext, job_name: str) -> str | None:
    """Return the key in the job's folder, sealed for its record; None if it is the one that we derive.

    Raises GatewayError, and ValueError when the file holds no key.
    """
    key = context.gateway.get(f"{context.paths.job(job_name)}/key", max_bytes=_KEY_BYTES).data
    return sealed_key(context.serving_secret, job_name, key.decode("ascii", "replace").strip())


def read_record_file(context: WorkerContext, job_name: str) -> JobRecordFile | None:
    """Return the job's record.json, None when it is missing or invalid.

    Raises ClusterUnavailableError and RemoteTimeoutError.
    """
    try:
        file = JobRecordFile.model_validate_json(
            context.gateway.get(context.paths.record(job_name)).data, extra="ignore"
        )
    except (ClusterUnavailableError, RemoteTimeoutError):
        raise
    except (GatewayError, ValidationError):
        return None
    job = file.deployment.job
    return file if job is not None and job.name == job_name else None


@dataclass
class KeyRecovery:
    """Corrects the recorded key of a job whose server proves another one, and whose job record.json says it is."""

    context: WorkerContext
    _read_at: dict[str, float] = field(default_factory=dict)

    def restore(self, attempt: Deployment) -> None:
        """Record the key of the job's folder if the record holds another; called while the server proves neither.

        A server that is not the job's own still proves nothing with it, so nothing is sent to that one either.
        """
        job, now = attempt.job, time.monotonic()
        if job is None or now - self._read_at.get(job.name, -READ_AGAIN_S) < READ_AGAIN_S:
            return
        self._read_at[job.name] = now
        try:
            key = read_sealed_key(self.context, job.name)
            if key == job.sealed_key:
                return
            update_attempt(self.context, attempt.id, job.name, lambda old: _with_key(old, key))
            self._claim(job.name)
        except (BouchetError, ValueError) as exc:
            log.warning("deployment %s: the key file of %s cannot be used: %s", attempt.id, job.name, exc)
            return
        log.warning("deployment %s: %s was launched with another SERVING_SECRET; its key is kept", attempt.id, job.name)

    def _claim(self, job_name: str) -> None:
        """Name this installation in the job's record.json. Raises GatewayError."""
        file = read_record_file(self.context, job_name)
        if file is not None and file.installation != self.context.installation:
            ours = render_record_file(file.deployment, self.context.installation, file.staged_at)
            self.context.gateway.put(self.context.paths.record(job_name), ours)

    def keep_only(self, job_names: set[str]) -> None:
        """Forget all other jobs."""
        self._read_at = {name: at for name, at in self._read_at.items() if name in job_names}


def _with_key(attempt: Deployment, key: str | None) -> Deployment:
    if attempt.job is None:
        return attempt
    return attempt.model_copy(update={"jobs": (attempt.job.model_copy(update={"sealed_key": key}),)})
