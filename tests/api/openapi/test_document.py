"""/openapi.json: every route has its examples and errors, and the examples are valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from bouchet_api.auth import OPEN_PATHS, SESSION_PATH
from bouchet_api.ledger.export import MEDIA_TYPES
from bouchet_api.openapi.document import NOT_RESUMED
from bouchet_api.openapi.errors import DETAIL_EXAMPLES, ERROR_KINDS, OWN_STATUS, problem_example
from bouchet_api.problems import STATUS_BY_KIND, Problem
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

JSON = "application/json"
PROBLEM = "application/problem+json"
STREAM = "text/event-stream"
TEXT = "text/plain"
TABLES = ("text/csv", "text/html", "application/x-ndjson")


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def routes(app: FastAPI) -> Iterator[APIRoute]:
    found = list(_routes(app.routes))
    assert len(found) > 20
    yield from found


def _routes(found: Any) -> Iterator[APIRoute]:
    for part in found:
        if isinstance(part, APIRoute):
            if part.include_in_schema:
                yield part
        elif hasattr(part, "original_router"):
            yield from _routes(part.original_router.routes)


def test_every_operation_has_its_errors(document: dict[str, Any]) -> None:
    there = {(method, path) for method, path, _ in operations(document)}
    assert there == set(ERROR_KINDS)
    for method, path, operation in operations(document):
        errors = {status: r for status, r in operation["responses"].items() if status >= "4" and status != "default"}
        assert errors, (method, path)
        assert ("401" in errors) == (path not in (*OPEN_PATHS, SESSION_PATH))
        assert "default" in operation["responses"]
        for status, response in errors.items():
            examples = response["content"][PROBLEM]["examples"]
            assert examples
            for kind, example in examples.items():
                assert Problem.model_validate(example["value"]).kind == kind
                assert example["value"]["status"] == int(status)


def test_every_error_kind_has_an_example() -> None:
    listed = {kind for kinds in ERROR_KINDS.values() for kind in kinds} | {"unauthorized"}
    assert listed == set(DETAIL_EXAMPLES)
    assert listed <= {*STATUS_BY_KIND, *OWN_STATUS}
    assert all(problem_example(kind)["detail"] for kind in DETAIL_EXAMPLES)


def test_every_response_and_body_has_an_example(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        good = [response for status, response in operation["responses"].items() if status < "3"]
        assert good
        for response in good:
            for media, content in response["content"].items():
                assert media in (JSON, STREAM, TEXT, *TABLES)
                assert content["example"], (method, path)
        if "requestBody" in operation:
            assert operation["requestBody"]["content"][JSON]["examples"], (method, path)


def validate_example(model: Any, example: Any) -> None:
    TypeAdapter(model).validate_json(json.dumps(example))


def test_examples_of_responses_are_valid(app: FastAPI, document: dict[str, Any]) -> None:
    for route in routes(app):
        for method in route.methods or ():
            responses = document["paths"][route.path_format.replace(":path", "")][method.lower()]["responses"]
            content = responses[str(route.status_code or 200)]["content"]
            if JSON in content:
                validate_example(route.response_model, content[JSON]["example"])


def test_examples_of_bodies_are_valid(app: FastAPI, document: dict[str, Any]) -> None:
    checked = 0
    for route in routes(app):
        for field in route.dependant.body_params:
            for method in route.methods or ():
                operation = document["paths"][route.path_format.replace(":path", "")][method.lower()]
                for example in operation["requestBody"]["content"][JSON]["examples"].values():
                    validate_example(field.field_info.annotation, example["value"])
                    checked += 1
    assert checked >= 6


def test_streams_describe_how_to_resume(document: dict[str, Any]) -> None:
    streams = [
        (path, operation, response)
        for _, path, operation in operations(document)
        for response in operation["responses"].values()
        if STREAM in response.get("content", {})
    ]
    assert {path for path, _, _ in streams} >= {"/v1/events", "/v1/deployments/{deployment}/logs"}
    for path, operation, response in streams:
        if path in NOT_RESUMED:
            continue
        assert "Last-Event-ID" in response["description"]
        assert any(p["name"] == "Last-Event-ID" for p in operation["parameters"]), path
        first, second = response["content"][STREAM]["example"].splitlines()[:2]
        assert first.startswith("id: ")
        json.loads(second.removeprefix("data: "))


def test_launch_describes_its_idempotency_key(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/v1/deployments"]["post"]["parameters"]
    [key] = [p for p in parameters if p["name"].lower() == "idempotency-key"]
    assert "creates no second one" in key["description"]


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    names = set(document["components"]["schemas"])
    found = list(references(document))
    assert found
    assert set(found) <= names


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "/schemas/" in str(part.get("$ref", "")):
            yield part["$ref"].rpartition("/")[2]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_export_documents_every_format(document: dict[str, Any]) -> None:
    documented = document["paths"]["/v1/ledger/export"]["get"]["responses"]["200"]["content"]
    assert set(documented) == {media_type.partition(";")[0] for media_type in MEDIA_TYPES.values()}
