"""Which models are on the cluster's disk, and the record of a new download."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bouchet_core.batch_jobs import DiskListing, DiskModel, Download, DownloadRequest, ModelId
from bouchet_core.config.catalog import Catalog
from bouchet_core.errors import GatewayError, UnknownModelError
from bouchet_core.tasks import TaskName
from bouchet_core.tunnel import TunnelState
from pydantic import TypeAdapter, ValidationError

from .dependencies import AppState

# an older listing is refreshed
MAX_AGE = timedelta(minutes=5)
# how long a request waits for a fresh listing, and the pause between two reads of the store
WAIT_S = 2.0
READ_INTERVAL_S = 0.05

_MODEL_ID: TypeAdapter[str] = TypeAdapter(ModelId)


def new_download(request: DownloadRequest, catalog: Catalog, identity: str, now: datetime) -> Download:
    """Return the record of a new download; raise UnknownModelError as `resolve_model` does."""
    return Download(
        id=identity,
        model=resolve_model(request.model, catalog),
        revision=request.revision or "main",
        reason="requested",
        created_at=now,
        updated_at=now,
    )


def resolve_model(name: str, catalog: Catalog) -> str:
    """Return the Hugging Face id of a catalog name, or the name itself when it is a full id `org/name`.

    Raises UnknownModelError for every other name.
    """
    try:
        return catalog.find(name)[0]
    except UnknownModelError:
        try:
            return _MODEL_ID.validate_python(name)
        except ValidationError:
            pass
        raise


def disk_model(model: str, listing: DiskListing | None, live: Sequence[Download]) -> DiskModel:
    """Return the model's state on disk; the byte count of a live download is newer than any listing."""
    found = listing.of(model) if listing is not None else DiskModel()
    download = next((d for d in live if d.model == model and d.total_bytes), None)
    if download is None or found.state == "ready":
        return found
    return found.model_copy(
        update={
            "state": "partial",
            "bytes": download.bytes,
            "total_bytes": download.total_bytes,
            "revision": download.commit,
        }
    )


def refresh_disk_listing(state: AppState) -> DiskListing | None:
    """Return the listing of models on disk, refreshed when it is old and the tunnel is up.

    Waits WAIT_S for the worker at most, then returns the old listing; None when there has never been one.
    """
    known = state.store.downloads.disk()
    if known is not None and datetime.now(UTC) - known.listed_at < MAX_AGE:
        return known
    if not _tunnel_is_up(state) or not state.store.downloads.may_request_listing():
        return known
    state.tasks.enqueue(TaskName.LIST_MODELS, "now")
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        time.sleep(READ_INTERVAL_S)
        new = state.store.downloads.disk()
        if new != known:
            return new
    return known


def _tunnel_is_up(state: AppState) -> bool:
    try:
        return state.gateway.status().state is TunnelState.UP
    except GatewayError:
        return False
