"""/v1/models: the catalog, and what of it is live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bouchet_core.catalog import ModelEntry
from bouchet_core.models import Deployment, Phase
from fastapi import APIRouter
from pydantic import BaseModel, Field

from bouchet_api.parts import PartsDep

router = APIRouter(prefix="/v1/models", tags=["models"])


class LiveDeployment(BaseModel):
    """A deployment of the model that has not ended."""

    id: str
    name: str
    phase: Phase


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


class Models(BaseModel):
    """The catalog. `default` is what a launch without a model takes."""

    default: str | None
    models: list[Model]


@router.get("")
def list_models(parts: PartsDep) -> Models:
    """All models that can be launched, in the catalog's order."""
    catalog = parts.catalog.current()
    live = parts.store.live()
    return Models(
        default=catalog.default,
        models=[_model(identity, entry, live) for identity, entry in catalog.entries.items()],
    )


def _model(identity: str, entry: ModelEntry, live: Sequence[Deployment]) -> Model:
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
    )
