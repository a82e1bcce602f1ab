"""Records of batch jobs: one live job a subject, an event a change, and the listing of the disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.batch_jobs import BatchJobState, DiskListing, DiskModel, Download
from bouchet_core.errors import UnknownDownloadError, UnknownImageJobError
from bouchet_core.images import ImageJob
from bouchet_core.store import FIRST_EVENT, Store
from bouchet_core.store.batch_jobs import RECORDS_KEPT

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def download(identity: str, model: str = "a/b", created: datetime = NOW) -> Download:
    return Download(id=identity, model=model, created_at=created, updated_at=created)


def end(store: Store, identity: str) -> Download:
    return store.downloads.update(identity, lambda d: d.ended(NOW, BatchJobState.DONE, "all files"))


def test_create_returns_the_live_record_of_the_same_subject(store: Store) -> None:
    first = store.downloads.create(download("aa"))
    assert store.downloads.create(download("bb")) == first
    assert store.downloads.get("a/b") == store.downloads.get("aa") == first
    end(store, "aa")
    assert store.downloads.create(download("bb")).id == "bb"
    assert [d.id for d in store.downloads.live()] == ["bb"]


def test_get_unknown_batch_job_raises_the_error_of_its_kind(store: Store) -> None:
    store.images.create(ImageJob(id="aa", pin="p", created_at=NOW, updated_at=NOW))
    with pytest.raises(UnknownDownloadError):
        store.downloads.get("aa")
    with pytest.raises(UnknownImageJobError):
        store.images.get("bb")


def test_update_saves_one_version_for_several_steps(store: Store) -> None:
    store.downloads.create(download("aa"))
    new = store.downloads.update("aa", lambda d: d.changed(NOW, bytes=1).changed(NOW, files=1))
    assert (new.version, new.bytes, new.files) == (1, 1, 1)
    assert store.downloads.update("aa", lambda d: d.changed(NOW, bytes=1)).version == 1


def test_events_are_those_of_one_batch_job_in_order(store: Store) -> None:
    store.downloads.create(download("aa"))
    store.downloads.create(download("bb", "c/d"))
    end(store, "aa")
    events = store.downloads.events(FIRST_EVENT, "aa")
    assert [event.batch_job.state for event in events] == [BatchJobState.QUEUED, BatchJobState.DONE]
    assert store.downloads.events(events[0].id, "aa") == events[1:]
    assert [e.batch_job.id for e in store.downloads.events(FIRST_EVENT, "aa", count=1)] == ["aa"]


def test_events_skip_pages_of_other_batch_jobs(store: Store) -> None:
    for n in range(5):
        store.downloads.create(download(f"x{n}", f"a/{n}"))
    assert [e.batch_job.id for e in store.downloads.events(FIRST_EVENT, "x4", count=2)] == ["x4"]


def test_create_removes_the_oldest_records(store: Store) -> None:
    for n in range(RECORDS_KEPT + 2):
        store.downloads.create(download(f"d{n}", f"a/{n}", NOW + timedelta(seconds=n)))
        end(store, f"d{n}")
    page = store.downloads.page(limit=RECORDS_KEPT + 10)
    assert (len(page), page[0].id, page[-1].id) == (RECORDS_KEPT, f"d{RECORDS_KEPT + 1}", "d2")
    with pytest.raises(UnknownDownloadError):
        store.downloads.get("d1")


def test_disk_listing_is_requested_by_one_caller_until_it_is_replaced(store: Store) -> None:
    assert store.downloads.disk() is None
    assert [store.downloads.may_request_listing() for _ in range(2)] == [True, False]
    listing = DiskListing(models={"a/b": DiskModel(state="ready", bytes=5)}, listed_at=NOW)
    store.downloads.keep_disk(listing)
    assert store.downloads.disk() == listing
    assert store.downloads.may_request_listing()
    assert (listing.of("a/b").percent, listing.of("c/d").state) == (100, "missing")
