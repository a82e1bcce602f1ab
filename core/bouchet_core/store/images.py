"""Builds and verifications of images (see batch jobs.py)."""

from __future__ import annotations

import redis

from bouchet_core.errors import UnknownImageJobError
from bouchet_core.images import ImageJob

from .batch_jobs import BatchJobStore


class ImageStore(BatchJobStore[ImageJob]):
    """Their records. Methods raise RecordError subclasses or StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, "image", ImageJob, UnknownImageJobError)
