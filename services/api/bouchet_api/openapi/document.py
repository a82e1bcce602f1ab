"""Completes /openapi.json: error responses, examples and the ways to send the key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from bouchet_api.auth import OPEN_PATHS
from bouchet_api.problems import MEDIA_TYPE, TITLES, Problem

from .errors import ERROR_KINDS, problem_example, status_of
from .responses import RESPONSE_EXAMPLES, STREAM_DESCRIPTION, STREAM_EXAMPLES

STREAM = "text/event-stream"

REF = "#/components/schemas/{model}"
SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


class DescribedApi(FastAPI):
    """A FastAPI application with a complete OpenAPI document, built at the first request for it: it takes long."""

    def openapi(self) -> dict[str, Any]:
        """Return the whole document."""
        if self.openapi_schema is None:
            _complete(super().openapi())
        return super().openapi()


def _complete(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    schema = Problem.model_json_schema(ref_template=REF)
    schemas = components.setdefault("schemas", {})
    schemas.update(schema.pop("$defs", {}))
    schemas["Problem"] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = SCHEMES
    content = {"schema": {"$ref": REF.format(model="Problem")}, "example": problem_example("bad_request")}
    components["responses"] = {"Problem": {"description": "what went wrong", "content": {MEDIA_TYPE: content}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(method, path, operation)


def _complete_operation(method: str, path: str, operation: dict[str, Any]) -> None:
    is_open = path in OPEN_PATHS
    responses = operation["responses"]
    responses.pop("422", None)
    for response in responses.values():
        for media, content in response.get("content", {}).items():
            if media == STREAM:
                content["example"] = _stream_example(path)
                response["description"] = STREAM_DESCRIPTION
            elif "example" not in content and "$ref" in content.get("schema", {}):
                content["example"] = RESPONSE_EXAMPLES.get(content["schema"]["$ref"].rpartition("/")[2], {})
    kinds = (*(() if is_open else ("unauthorized",)), *ERROR_KINDS.get((method, path), ()))
    responses.update(_error_responses(kinds))
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    operation["security"] = [] if is_open else [{name: []} for name in SCHEMES]


def _error_responses(kinds: Sequence[str]) -> dict[str, Any]:
    """Return a response for each status, with an example for each kind."""
    by_status: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        by_status.setdefault(str(status_of(kind)), {})[kind] = {"value": problem_example(kind)}
    return {
        status: {
            "description": TITLES[int(status)],
            "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}, "examples": examples}},
        }
        for status, examples in by_status.items()
    }


def _stream_example(path: str) -> str:
    endings = [ending for ending in STREAM_EXAMPLES if path.endswith(ending)]
    return STREAM_EXAMPLES[max(endings, key=len)] if endings else ""
