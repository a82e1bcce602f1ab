"""Downloads of models (see batch jobs.py), and the last look at the cluster's disk.

Keys (under `bouchet:`):
    disk               string  DiskListing as JSON
    disk-asked         string  set while a look is wanted, ASKED_TTL_S
"""

from __future__ import annotations

from typing import cast

import redis

from bouchet_core.downloads import DiskListing, Download
from bouchet_core.errors import UnknownDownloadError

from .batch_jobs import BatchJobStore
from .connection import PREFIX, mapped

ASKED_TTL_S = 20

_DISK, _DISK_ASKED = PREFIX + "disk", PREFIX + "disk-asked"


class DownloadStore(BatchJobStore[Download]):
    """The records of downloads. Methods raise RecordError subclasses or StoreUnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, "download", Download, UnknownDownloadError)

    def disk(self) -> DiskListing | None:
        """The last look, however old; None before the first."""
        with mapped():
            body = self._redis.get(_DISK)
        return DiskListing.model_validate_json(cast(str, body)) if body else None

    def keep_disk(self, look: DiskListing) -> None:
        """Replaces the last look."""
        with mapped():
            self._redis.set(_DISK, look.model_dump_json())
            self._redis.delete(_DISK_ASKED)

    def may_ask_for_disk(self) -> bool:
        """True for one caller at a time: it asks the worker to look, the others wait for what comes of it."""
        with mapped():
            return bool(self._redis.set(_DISK_ASKED, "1", nx=True, ex=ASKED_TTL_S))
