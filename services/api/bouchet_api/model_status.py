"""From a request to a download's record, and from a look at the cluster's disk to what a model's row says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bouchet_core.catalog import Catalog
from bouchet_core.downloads import DiskListing, DiskModel, Download, DownloadRequest, ModelId
from bouchet_core.errors import UnknownModelError
from pydantic import TypeAdapter, ValidationError

_MODEL_ID: TypeAdapter[str] = TypeAdapter(ModelId)


def asked_for(request: DownloadRequest, catalog: Catalog, identity: str, now: datetime) -> Download:
    """The record of a new download. Raises UnknownModelError for what is neither in the catalog nor a full id."""
    return Download(
        id=identity,
        model=model_of(request.model, catalog),
        revision=request.revision or "main",
        reason="asked for",
        created_at=now,
        updated_at=now,
    )


def model_of(name: str, catalog: Catalog) -> str:
    """The id that the name stands for: a catalog entry's, or the name itself where it is a full id `org/name`."""
    try:
        return catalog.find(name)[0]
    except UnknownModelError:
        try:
            return _MODEL_ID.validate_python(name)
        except ValidationError:
            pass
        raise


def disk_of(model: str, look: DiskListing | None, live: Sequence[Download]) -> DiskModel:
    """That model's row; what a download under way counts is newer than any look."""
    found = look.of(model) if look is not None else DiskModel()
    coming = next((d for d in live if d.model == model and d.total_bytes), None)
    if coming is None or found.state == "ready":
        return found
    fresh = {"state": "partial", "bytes": coming.bytes, "total_bytes": coming.total_bytes, "revision": coming.commit}
    return found.model_copy(update=fresh)
