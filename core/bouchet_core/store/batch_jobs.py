"""Records of downloads and image builds, and the last listing of the models on the cluster's disk.

Keys (all under `bouchet:`), with `image` in the place of `download` for image builds:
    download:<id>      hash    version, body (the record as JSON)
    downloads          zset    ids by creation time, newest RECORDS_KEPT
    downloads-live     hash    subject -> id of its live batch job
    download-events    stream  one entry a change: id, body; newest EVENTS_KEPT
    disk               string  DiskListing as JSON
    disk-asked         string  set while a new listing is requested, LISTING_REQUEST_TTL_S
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from bouchet_core.batch_jobs import BatchJob, DiskListing, Download
from bouchet_core.errors import UnknownDownloadError, UnknownImageJobError
from bouchet_core.images import ImageJob

from .client import PREFIX, mapped
from .reading import read_or_skip
from .records import RecordKeys, RecordStore

RECORDS_KEPT = 200
EVENTS_KEPT = 5_000
LISTING_REQUEST_TTL_S = 20

_DISK, _DISK_REQUESTED = PREFIX + "disk", PREFIX + "disk-asked"

AnyBatchJob = TypeVar("AnyBatchJob", bound=BatchJob)


def _keys(kind: str) -> RecordKeys:
    stem = PREFIX + kind
    return RecordKeys(record=f"{stem}:", all=f"{stem}s", owners=f"{stem}s-live", events=f"{stem}-events")


@dataclass(frozen=True)
class BatchJobEvent(Generic[AnyBatchJob]):
    """One change of one batch job. `id` is the event stream's."""

    id: str
    batch_job: AnyBatchJob


class BatchJobStore(RecordStore[AnyBatchJob]):
    """Records of one kind of batch job; a subject has one live batch job at a time.

    Methods raise RecordError subclasses or StoreUnavailableError.
    """

    events_kept = EVENTS_KEPT

    def event_of(self, record: AnyBatchJob) -> Mapping[str, str]:
        """Return id and body of the record."""
        return {self.kind: record.id, "body": record.model_dump_json()}

    def names_of(self, record: AnyBatchJob) -> Sequence[str]:
        """Return the subject."""
        return (record.subject,)

    def create(self, batch_job: AnyBatchJob) -> AnyBatchJob:
        """Store a new record, or return the live one of the same subject."""
        answer = self._create(batch_job)
        if answer[0] != "ok":
            return self.get(answer[-1])
        self._remove_oldest()
        return batch_job

    def events(self, after: str, only: str, count: int = 200) -> list[BatchJobEvent[AnyBatchJob]]:
        """Return the changes of one batch job after that event, oldest first, without waiting."""
        with mapped():
            answer = cast(Any, self._redis.xrange(self.keys.events, f"({after}", "+", count=count))
        wanted = [(identity, fields) for identity, fields in answer if fields[self.kind] == only]
        if not wanted and len(answer) == count:
            return self.events(answer[-1][0], only, count)
        found = ((identity, self._event_record(only, fields["body"])) for identity, fields in wanted)
        return [BatchJobEvent(identity, record) for identity, record in found if record is not None]

    def _event_record(self, only: str, body: str) -> AnyBatchJob | None:
        return read_or_skip(self.record_type, f"{self.kind} event of", only, body)

    def _remove_oldest(self) -> None:
        with mapped():
            old = cast("list[str]", self._redis.zrange(self.keys.all, 0, -RECORDS_KEPT - 1))
            if old:
                self._redis.delete(*(self._key(identity) for identity in old))
                self._redis.zrem(self.keys.all, *old)


class DownloadStore(BatchJobStore[Download]):
    """Downloads, and which models are on the cluster's disk."""

    kind = "download"
    keys = _keys(kind)
    record_type = Download

    def unknown(self, name: str) -> UnknownDownloadError:
        """Return the error for an unknown download."""
        return UnknownDownloadError(name)

    def disk(self) -> DiskListing | None:
        """Return the last listing, however old; None before the first or if it cannot be read."""
        with mapped():
            body = self._redis.get(_DISK)
        return read_or_skip(DiskListing, "listing", "disk", cast(str, body)) if body else None

    def keep_disk(self, listing: DiskListing) -> None:
        """Replace the last listing."""
        with mapped():
            self._redis.set(_DISK, listing.model_dump_json())
            self._redis.delete(_DISK_REQUESTED)

    def may_request_listing(self) -> bool:
        """Return True to one caller at a time: it requests a new listing from the worker, the others wait for it."""
        with mapped():
            return bool(self._redis.set(_DISK_REQUESTED, "1", nx=True, ex=LISTING_REQUEST_TTL_S))


class ImageStore(BatchJobStore[ImageJob]):
    """Image builds and verifications."""

    kind = "image"
    keys = _keys(kind)
    record_type = ImageJob

    def unknown(self, name: str) -> UnknownImageJobError:
        """Return the error for an unknown image build."""
        return UnknownImageJobError(name)
