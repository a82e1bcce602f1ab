"""GET /healthz: the only path without a key."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from bouchet_api.dependencies import PartsDep

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """This process answers, and so does Redis."""

    status: Literal["ok"] = "ok"
    redis: Literal["ok"] = "ok"


@router.get("/healthz")
def healthz(parts: PartsDep) -> Health:
    """200 while Redis answers too, else 503."""
    parts.store.ping()
    return Health()
