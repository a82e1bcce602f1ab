"""/v1/models: the catalog, with each model's deployments and weights; models of the hub; removal of weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from bouchet_core.batch_jobs import DiskListing, DiskState, Download
from bouchet_core.config.catalog import ModelEntry
from bouchet_core.config.hub_models import HubModelRequest, ModelProposal, RemovedModel, entry_block, free_alias
from bouchet_core.deployments import Deployment, Phase
from bouchet_core.tasks import TaskName
from fastapi import APIRouter, Body, Path, Query
from pydantic import BaseModel, Field

from bouchet_api.dependencies import StateDep
from bouchet_api.model_status import disk_model, refresh_disk_listing, resolve_model
from bouchet_api.openapi import examples

log = logging.getLogger(__name__)
# the worker asks the hub from the login node; a large model's files take a while to remove
INSPECT_WAIT_S, REMOVE_WAIT_S = 110.0, 210.0
ModelName = Annotated[str, Path(description="name in the catalog, or a full id `org/name`", max_length=200)]

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
    shared: str = Field(default="", description="the shared directory that it is in; empty: in models_dir")
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


class ModelDetails(CatalogModel):
    """A catalog entry in full. block: its lines in a catalog file."""

    entry: ModelEntry
    block: str
    added: bool = Field(description="whether `bouchet models add` wrote it, into the file `file`")
    file: str = Field(description="the file beside the site file that `bouchet models add` writes")


class InspectedModel(ModelProposal):
    """What the hub says of a model, and the lines that `bouchet models add` would write."""

    block: str
    file: str
    known: bool = Field(description="whether the catalog has it already")


@router.post("/inspect")
def inspect_hub_model(
    state: StateDep, request: Annotated[HubModelRequest, Body(openapi_examples=examples.HUB_REQUEST)]
) -> InspectedModel:
    """Ask the hub about a model, and propose a catalog entry for it. Queries the cluster; changes nothing."""
    raw = state.tasks.query(TaskName.INSPECT_HUB_MODEL, request.model_dump(), wait_s=INSPECT_WAIT_S)
    found = ModelProposal.model_validate(raw)
    entries = state.catalog.current().entries
    taken = [entry.alias for model, entry in entries.items() if model != found.model]
    entry = found.entry.model_copy(update={"alias": free_alias(found.entry.alias, taken)})
    return InspectedModel(
        **{**found.model_dump(), "entry": entry},
        block=entry_block(found.model, entry),
        file=state.added_catalog.name,
        known=found.model in entries,
    )


@router.get("/{model:path}")
def get_model(state: StateDep, model: ModelName) -> ModelDetails:
    """Return one model of the catalog, with its whole entry."""
    identity, entry = state.catalog.current().find(model)
    listing, downloads = refresh_disk_listing(state), state.store.downloads.live()
    shown = _catalog_model(identity, entry, state.store.live(), _disk_status(identity, listing, downloads))
    return ModelDetails(
        **shown.model_dump(),
        entry=entry,
        block=entry_block(identity, entry),
        added=identity in state.catalog.added(),
        file=state.added_catalog.name,
    )


@router.delete("/{model:path}")
def remove_model(
    state: StateDep,
    model: ModelName,
    force: Annotated[bool, Query(description="remove it even while a live deployment uses it")] = False,
) -> RemovedModel:
    """Remove a model's weights from the cluster. Its catalog entry stays."""
    identity = resolve_model(model, state.catalog.current())
    raw = state.tasks.query(TaskName.REMOVE_MODEL, identity, force, wait_s=REMOVE_WAIT_S)
    log.info("%s: removed", identity)
    return RemovedModel.model_validate(raw)


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
