"""What /openapi.json says beyond the routes: errors are problems everywhere, and how the key is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from bouchet_api.auth import OPEN_PATHS
from bouchet_api.problems import MEDIA_TYPE, TITLES, Problem

from .errors import REFUSALS, example_of, status_of
from .responses import ANSWERS, RESUMING, STREAMS

STREAM = "text/event-stream"

REF = "#/components/schemas/{model}"
SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
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
    shown = {"schema": {"$ref": REF.format(model="Problem")}, "example": example_of("bad_request")}
    parts["responses"] = {"Problem": {"description": "what went wrong", "content": {MEDIA_TYPE: shown}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(method, path, operation)


def _complete_operation(method: str, path: str, operation: dict[str, Any]) -> None:
    opened = path in OPEN_PATHS
    responses = operation["responses"]
    responses.pop("422", None)
    for response in responses.values():
        for media, content in response.get("content", {}).items():
            if media == STREAM:
                content["example"] = _stream_example(path)
                response["description"] = RESUMING
            elif "example" not in content and "$ref" in content.get("schema", {}):
                content["example"] = ANSWERS.get(content["schema"]["$ref"].rpartition("/")[2], {})
    kinds = (*(() if opened else ("unauthorized",)), *REFUSALS.get((method, path), ()))
    responses.update(_problems(kinds))
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    operation["security"] = [] if opened else [{name: []} for name in SCHEMES]


def _problems(kinds: Sequence[str]) -> dict[str, Any]:
    """A response for each status, with an example for each kind."""
    by_status: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        by_status.setdefault(str(status_of(kind)), {})[kind] = {"value": example_of(kind)}
    return {
        status: {
            "description": TITLES[int(status)],
            "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}, "examples": examples}},
        }
        for status, examples in by_status.items()
    }


def _stream_example(path: str) -> str:
    endings = [ending for ending in STREAMS if path.endswith(ending)]
    return STREAMS[max(endings, key=len)] if endings else ""
