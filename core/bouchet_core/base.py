"""The base of all values that pass between rooms."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """A value that never changes after it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
