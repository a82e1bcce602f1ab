"""GET /v1/models: the catalog, with each model's live deployments and its state on the cluster's disk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from bouchet_core.batch_jobs import DiskListing, DiskState, Download
from bouchet_core.config.catalog import ModelEntry
from bouchet_core.deployments import Deployment, Phase
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from bouchet_api.dependencies import StateDep
from bouchet_api.model_status import disk_model, refresh_disk_listing

router = APIRouter(prefix="/v1/models", tags=["models"])


class ModelDeployment(BaseModel):
    """A deployment of the model that has not ended."""

    id: str
    name: str
    phase: Phase


class ModelDiskStatus(BaseModel):
    """A model on the cluster's disk; sizes in bytes. `unknown` while the cluster cannot be queried."""

    state: DiskState
    percent: int | None
    bytes: int | None
    total_bytes: int | None
    revision: str | None = Field(description="commit")
    last_used: datetime | None = Field(description="when a job last served it")
    listed_at: datetime | None = Field(description="time of the disk listing")
    download: str | None = Field(description="id of the live download")


class CatalogModel(BaseModel):
    """A catalog entry. `window` and `max_output` are tokens, `weights_gib` is GiB."""

    id: str = Field(description="Hugging Face id")
    alias: str
    description: str
    gpus: int
    nodes: int
    window: int
    max_output: int
    quant: Literal["fp8", "none"]
    thinking: Literal["none", "off", "on", "always"]
    tools: bool
    vision: bool
    weights_gib: float | None
    live: list[ModelDeployment]
    disk: ModelDiskStatus


class ModelList(BaseModel):
    """The catalog."""

    default: str | None = Field(description="the model of a launch that names none")
    models: list[CatalogModel]
    free_bytes: int | None = Field(description="free space on the models' disk")


@router.get("")
def list_models(
    state: StateDep,
    refresh: Annotated[bool, Query(description="wait up to 2 s for a new disk listing when the last is old")] = True,
) -> ModelList:
    """List all models of the catalog, in its order, and which of them are on the cluster."""
    catalog = state.catalog.current()
    live, downloads = state.store.live(), state.store.downloads.live()
    listing = refresh_disk_listing(state) if refresh else state.store.downloads.disk()
    return ModelList(
        default=catalog.default,
        models=[
            _catalog_model(identity, entry, live, _disk_status(identity, listing, downloads))
            for identity, entry in catalog.entries.items()
        ],
        free_bytes=listing.free_bytes if listing else None,
    )


def _disk_status(identity: str, listing: DiskListing | None, downloads: Sequence[Download]) -> ModelDiskStatus:
    found = disk_model(identity, listing, downloads)
    return ModelDiskStatus(
        **found.model_dump(),
        percent=found.percent,
        listed_at=listing.listed_at if listing else None,
        download=next((d.id for d in downloads if d.model == identity), None),
    )


def _catalog_model(identity: str, entry: ModelEntry, live: Sequence[Deployment], disk: ModelDiskStatus) -> CatalogModel:
    return CatalogModel(
        id=identity,
        alias=entry.alias,
        description=entry.description,
        gpus=entry.gpus,
        nodes=entry.nodes,
        window=entry.window,
        max_output=entry.max_output,
        quant=entry.quant,
        thinking=entry.thinking,
        tools=entry.tool_parser is not None,
        vision=entry.vision,
        weights_gib=entry.weights_gib,
        live=[ModelDeployment(id=d.id, name=d.alias, phase=d.phase) for d in live if d.model == identity],
        disk=disk,
    )
