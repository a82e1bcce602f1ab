"""Builds and verifications of images (see chores.py)."""

from __future__ import annotations

import redis

from bouchet_core.errors import UnknownImageJob
from bouchet_core.images import ImageJob

from .chores import ChoreStore


class ImageStore(ChoreStore[ImageJob]):
    """Their records. Methods raise RecordError subclasses or StoreUnavailable."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, "image", ImageJob, UnknownImageJob)
