"""The responses of `/v1/models` and `/v1beta/models` in each dialect. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from .dialects.endpoints import Dialect
from .errors import unavailable
from .routing.table import ListedModel, ReplicaGroup, Route, RoutingTable


def render_model_list(dialect: Dialect, table: RoutingTable) -> dict[str, Any]:
    """Render all models that are ready."""
    entries = [render_model(dialect, entry) for entry in table.models]
    if dialect is Dialect.OPENAI:
        return {"object": "list", "data": entries}
    if dialect is Dialect.GOOGLE:
        return {"models": entries}
    ids = [entry["id"] for entry in entries]
    return {
        "data": entries,
        "has_more": False,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


def render_model(dialect: Dialect, entry: ListedModel) -> dict[str, Any]:
    """Render one model."""
    if dialect is Dialect.OPENAI:
        return {
            "id": entry.name,
            "object": "model",
            "created": int(entry.created_at.timestamp()),
            "owned_by": "bouchet-llm",
            "root": entry.model,
            "max_model_len": entry.window,
        }
    if dialect is Dialect.GOOGLE:
        return _google_model(entry)
    created = entry.created_at.isoformat().replace("+00:00", "Z")
    known = {"type": "model", "id": entry.name, "display_name": entry.model, "created_at": created}
    # the window bounds prompt and answer together
    return {**known, "lifecycle": "active", "max_input_tokens": entry.window, "max_tokens": entry.window}


def _google_model(entry: ListedModel) -> dict[str, Any]:
    limits = {} if entry.window is None else {"inputTokenLimit": entry.window, "outputTokenLimit": entry.window}
    return {
        "name": f"models/{entry.name}",
        "baseModelId": entry.name,
        "version": "1",
        "displayName": entry.model,
        **limits,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }


def find_model(table: RoutingTable, name: str) -> ListedModel:
    """Return the entry of the model that a request with that name would reach. Raises ProxyError where it reaches none.

    A model that is not ready is not found here: nothing waits for the answer.
    """
    found = table.find(name)
    route = found.routes[0] if isinstance(found, ReplicaGroup) else found
    if isinstance(route, Route):
        entry = next((e for e in table.models if e.name == route.alias), None)
        if entry is not None:
            return entry
    raise replace(unavailable(found, datetime.now(UTC)), status=404, retry_after_s=None)
