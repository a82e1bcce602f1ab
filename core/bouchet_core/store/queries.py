"""Reads that go to Redis together: each says what it asks and what the answers mean, and all share a round trip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import redis

from .client import mapped

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Query(Generic[T_co]):
    """Commands, and what their answers mean: `parse` is given one answer for each command, in their order.

    It may ask again, for what the commands could not know.
    """

    commands: Sequence[tuple[str | int | float, ...]]
    parse: Callable[[Sequence[Any]], T_co]


def ask(client: redis.Redis, query: Query[T_co]) -> T_co:
    """Return the answer to one query."""
    if len(query.commands) > 1:
        return cast("T_co", ask_all(client, query)[0])
    with mapped():
        # not in a pipeline, so that an error about missing rights names the command
        answers = [cast("Any", client).execute_command(*command) for command in query.commands]
    return query.parse(answers)


def ask_all(client: redis.Redis, *queries: Query[Any]) -> list[Any]:
    """Return the answers to all queries, which reach Redis in one round trip and in this order."""
    with mapped():
        pipe = cast("Any", client.pipeline(transaction=False))
        for query in queries:
            for command in query.commands:
                pipe.execute_command(*command)
        answers = pipe.execute()
    found, begin = [], 0
    for query in queries:
        end = begin + len(query.commands)
        found.append(query.parse(answers[begin:end]))
        begin = end
    return found
