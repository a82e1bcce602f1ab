"""/v1/models: the catalog, and what of it is live."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from bouchet_core.catalog import ModelEntry
from bouchet_core.deployments import Deployment, Phase
from bouchet_core.downloads import DiskListing, DiskState, Download
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from bouchet_api.dependencies import PartsDep
from bouchet_api.disk_listing import disk_now
from bouchet_api.model_status import disk_of

router = APIRouter(prefix="/v1/models", tags=["models"])


class LiveDeployment(BaseModel):
    """A deployment of the model that has not ended."""

    id: str
    name: str
    phase: Phase


class Disk(BaseModel):
    """A model on the cluster's disk; sizes in bytes. `unknown` while the cluster cannot be asked."""

    state: DiskState
    percent: int | None
    bytes: int | None
    total_bytes: int | None
    revision: str | None = Field(description="commit")
    last_used: datetime | None = Field(description="when a job last served it")
    looked_at: datetime | None
    download: str | None = Field(description="id of the download under way")


class Model(BaseModel):
    """A catalog entry. Window and max_output are tokens, weights are GiB."""

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
    live: list[LiveDeployment]
    disk: Disk


class Models(BaseModel):
    """The catalog. `default` is what a launch without a model takes."""

    default: str | None
    models: list[Model]
    free_bytes: int | None = Field(description="left on the disk of the models")


@router.get("")
def list_models(
    parts: PartsDep,
    look: Annotated[bool, Query(description="wait a moment for a new look at the disk, where the last is old")] = True,
) -> Models:
    """All models that can be launched, in the catalog's order, and what of them lies on the cluster."""
    catalog = parts.catalog.current()
    live, coming = parts.store.live(), parts.store.downloads.live()
    disk = disk_now(parts) if look else parts.store.downloads.disk()
    return Models(
        default=catalog.default,
        models=[
            _model(identity, entry, live, _disk(identity, disk, coming)) for identity, entry in catalog.entries.items()
        ],
        free_bytes=disk.free_bytes if disk else None,
    )


def _disk(identity: str, look: DiskListing | None, coming: Sequence[Download]) -> Disk:
    found = disk_of(identity, look, coming)
    return Disk(
        **found.model_dump(),
        percent=found.percent,
        looked_at=look.looked_at if look else None,
        download=next((d.id for d in coming if d.model == identity), None),
    )


def _model(identity: str, entry: ModelEntry, live: Sequence[Deployment], disk: Disk) -> Model:
    return Model(
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
        live=[LiveDeployment(id=d.id, name=d.alias, phase=d.phase) for d in live if d.model == identity],
        disk=disk,
    )
