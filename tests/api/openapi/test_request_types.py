"""Each field of a request's JSON body takes the types that the document names, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from bouchet_api.app import ROUTERS
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

# 1 and 0 where a boolean is meant, text where a number is meant: what pydantic converts if nothing forbids it
SAMPLES: tuple[tuple[str, Any], ...] = (
    ("boolean", True),
    ("boolean", False),
    ("integer", 0),
    ("integer", 1),
    ("number", 1.5),
    ("string", "1"),
    ("string", "true"),
    ("array", []),
    ("object", {}),
    ("null", None),
)
BOTH_NUMBERS = {"integer", "number"}


def request_models() -> set[type[BaseModel]]:
    """Return the models of all JSON bodies that the API takes."""
    routes = (route for router in ROUTERS for route in router.routes)
    fields = (route.body_field for route in routes if isinstance(route, APIRoute))
    models = {field.field_info.annotation for field in fields if field}
    assert all(isinstance(model, type) and issubclass(model, BaseModel) for model in models), models
    return cast("set[type[BaseModel]]", models)


def types_of(schema: dict[str, Any], definitions: dict[str, Any]) -> set[str]:
    """Return the JSON types that a schema allows."""
    if "$ref" in schema:
        return types_of(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    kinds = {schema["type"]} if "type" in schema else set()
    for choice in schema.get("anyOf", []) + schema.get("oneOf", []):
        kinds |= types_of(choice, definitions)
    assert kinds, f"a schema without a type takes anything: {schema}"
    return kinds | BOTH_NUMBERS if "number" in kinds else kinds


def wrong_values(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Yield each field of the model with each sample whose type its schema does not allow."""
    schema = model.model_json_schema()
    for name, field in schema["properties"].items():
        allowed = types_of(field, schema.get("$defs", {}))
        yield from ((name, value) for kind, value in SAMPLES if kind not in allowed)


def test_field_takes_no_other_type_than_the_document_says() -> None:
    models = request_models()
    assert len(models) >= 7, models
    accepted = []
    for model in models:
        for name, value in wrong_values(model):
            with pytest.raises(ValidationError) as raised:
                model.model_validate({name: value, "no_such_field": 1})
            if not any(error["loc"][0] == name for error in raised.value.errors()):
                accepted.append(f"{model.__name__}.{name} takes {value!r}")
    assert accepted == []
