"""What /openapi.json says beyond the routes: errors are problems everywhere, and how the key is sent."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from .door import OPEN_PATHS
from .problems import MEDIA_TYPE, Problem

REF = "#/components/schemas/{model}"
SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
EXAMPLE: dict[str, Any] = {
    "type": "about:blank",
    "title": "Not found",
    "status": 404,
    "detail": "no model 'qwen3-23b' in the catalog; did you mean bouchet-qwen3-32b?",
    "kind": "unknown_model",
    "near": ["bouchet-qwen3-32b"],
}


class DescribedApi(FastAPI):
    """A FastAPI whose document is made when it is first asked for: that takes longer than all else at its start."""

    def openapi(self) -> dict[str, Any]:
        """The whole document."""
        if self.openapi_schema is None:
            _complete(super().openapi())
        return super().openapi()


def _complete(document: dict[str, Any]) -> None:
    parts = document.setdefault("components", {})
    schema = Problem.model_json_schema(ref_template=REF)
    schemas = parts.setdefault("schemas", {})
    schemas.update(schema.pop("$defs", {}))
    schemas["Problem"] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    parts["securitySchemes"] = SCHEMES
    shown = {"schema": {"$ref": REF.format(model="Problem")}, "example": EXAMPLE}
    parts["responses"] = {"Problem": {"description": "what went wrong", "content": {MEDIA_TYPE: shown}}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
            operation["security"] = [] if path in OPEN_PATHS else [{name: []} for name in SCHEMES]
