"""Reading what is stored: fields of other versions are ignored, and one unreadable value does not spoil a list."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, Self, TypeVar

from pydantic import ValidationError

log = logging.getLogger(__name__)


class Storable(Protocol):
    """A pydantic model that is stored as JSON."""

    @classmethod
    def model_validate_json(cls, json_data: str, *, extra: Any = None) -> Self: ...


AnyStorable = TypeVar("AnyStorable", bound=Storable)


@dataclass(frozen=True)
class Unreadable:
    """A stored value that this version cannot read. kind: deployment, download, image or key."""

    kind: str
    id: str
    problem: str


def read_stored(model: type[AnyStorable], body: str) -> AnyStorable:
    """Return the value of a stored body, without the fields that this version does not know, at any depth.

    Models refuse unknown fields everywhere else: there they are a person's mistake. Raises pydantic's ValidationError.
    """
    return model.model_validate_json(body, extra="ignore")


def read_or_skip(model: type[AnyStorable], kind: str, identity: str, body: str) -> AnyStorable | None:
    """Return the value, or log why it cannot be read and return None."""
    try:
        return read_stored(model, body)
    except ValidationError as exc:
        _log_once(kind, identity, problem_of(exc))
        return None


def unreadable_of(model: type[Storable], kind: str, bodies: Iterable[tuple[str, str]]) -> list[Unreadable]:
    """Return the values, given as pairs of id and body, that cannot be read."""
    found = []
    for identity, body in bodies:
        try:
            read_stored(model, body)
        except ValidationError as exc:
            found.append(Unreadable(kind, identity, problem_of(exc)))
    return found


def problem_of(error: ValidationError) -> str:
    """Return the first problem in one line, without the value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])


# the same value is read every few seconds
@lru_cache(maxsize=1000)
def _log_once(kind: str, identity: str, problem: str) -> None:
    log.error("%s %s is left out: its record cannot be read (%s)", kind, identity, problem)
