"""`/v1/models` in both shapes. Pure."""

from __future__ import annotations

from typing import Any

from .dialects.endpoints import Dialect
from .routing.table import RoutingTable, Served


def model_list(dialect: Dialect, table: RoutingTable) -> dict[str, Any]:
    """All models that can be asked now."""
    lines = [model_line(dialect, line) for line in table.served]
    if dialect is Dialect.OPENAI:
        return {"object": "list", "data": lines}
    ids = [line["id"] for line in lines]
    return {"data": lines, "has_more": False, "first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}


def model_line(dialect: Dialect, line: Served) -> dict[str, Any]:
    """One model."""
    if dialect is Dialect.OPENAI:
        return {
            "id": line.name,
            "object": "model",
            "created": int(line.created_at.timestamp()),
            "owned_by": "bouchet-llm",
            "root": line.model,
            "max_model_len": line.window,
        }
    created = line.created_at.isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": line.name, "display_name": line.model, "created_at": created}


def find_line(table: RoutingTable, name: str) -> Served | None:
    """The line of that alias or Hugging Face id."""
    return next((line for line in table.served if name.lower() in (line.name.lower(), line.model.lower())), None)
