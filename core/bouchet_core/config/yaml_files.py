"""Strict reading of YAML files: duplicate keys, unknown fields and wrong types are errors with a line number."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bouchet_core.errors import ConfigurationError

AnyModel = TypeVar("AnyModel", bound=BaseModel)
Place = tuple[str | int, ...]


def read_yaml(path: Path, model: type[AnyModel], change: Callable[[object], object] = lambda data: data) -> AnyModel:
    """Read the file as a value of `model`; ConfigurationError has the line and the nearest known field.

    change: what is done to the data before it is checked.
    """
    lines: dict[Place, int] = {}
    data = change(_load(path, lines))
    try:
        return model.model_validate(data if data is not None else {})
    except ValidationError as exc:
        first = exc.errors()[0]
        raise ConfigurationError(str(path), _sentence(first, model), _line_of(first["loc"], lines)) from exc


def _load(path: Path, lines: dict[Place, int]) -> object:
    """Return the data of the file, and fill `lines`. Raises ConfigurationError for anything that is no plain YAML."""
    try:
        text = path.read_text(encoding="utf-8")
        _collect_lines(path, yaml.compose(text, Loader=yaml.SafeLoader), (), lines)
        return yaml.safe_load(text)
    except OSError as exc:
        raise ConfigurationError(str(path), f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(str(path), "is not UTF-8 text") from exc
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 0
        raise ConfigurationError(str(path), f"is not valid YAML: {exc.problem}", line) from exc
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise ConfigurationError(
            str(path), f"is not valid YAML: it has the character U+{int(exc.character):04X}", line
        ) from exc
    except RecursionError as exc:
        raise ConfigurationError(str(path), "is nested too deeply, or contains itself") from exc
    except ValueError as exc:
        # of a date that no calendar has
        raise ConfigurationError(str(path), f"is not valid YAML: {exc}") from exc


def _collect_lines(path: Path, node: yaml.Node | None, place: Place, lines: dict[Place, int]) -> None:
    """Fill `lines` with the 1-based line of every key and item; ConfigurationError for a duplicate key."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigurationError(str(path), "a name of a field is a list or an object", line)
            inner = (*place, key.value)
            if inner in lines:
                problem = f"{key.value!r} is written twice (first in line {lines[inner]})"
                raise ConfigurationError(str(path), problem, line)
            lines[inner] = line
            _collect_lines(path, value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*place, index)] = item.start_mark.line + 1
            _collect_lines(path, item, (*place, index), lines)


def _line_of(place: Place, lines: dict[Place, int]) -> int:
    """Return the line of the innermost part of `place` that is in the file, 1 if none is."""
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return lines[place[:length]]
    return 1


def _sentence(error: ErrorDetails, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{place}: {error['msg']}" if place else str(error["msg"])
    typo = str(error["loc"][-1])
    near = difflib.get_close_matches(typo, _known_fields(model), n=1)
    return f"unknown field {typo!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _known_fields(model: type[BaseModel]) -> Sequence[str]:
    """Return every field name of the model and of its nested models."""
    schema: dict[str, Any] = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for part in parts for name in part.get("properties", {})})
