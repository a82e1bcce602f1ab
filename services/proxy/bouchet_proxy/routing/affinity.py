"""Which of several replicas answers: the one that knows the conversation, else the least busy. Pure, but for memory.

vLLM keeps the keys and values of prompts that it has seen, so the second turn of a conversation is quick only where the
first one was answered. Every other request goes to the replica with the fewest open ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import orjson

from .table import Route

# conversations whose replica is remembered; the one that was silent for longest is forgotten first
MOST_REMEMBERED = 20_000
# of a prompt that is one text; it grows with every turn, its beginning stays
PROMPT_HEAD = 400
_THEIRS = ("user", "system", "developer")


def choose(routes: Sequence[Route], conversation: str, busy: Mapping[int, int], home: str | None) -> Route:
    """The replica for a request. busy: open requests by slot; home: the deployment that answered the conversation last.

    Among equally busy ones a hash decides, so that a proxy that was started anew mostly finds the same replica again.
    """
    for route in routes:
        if route.deployment == home:
            return route
    return min(routes, key=lambda route: (busy.get(route.slot, 0), _rank(conversation, route.deployment)))


def _rank(conversation: str, deployment: str) -> bytes:
    return hashlib.blake2b(f"{conversation}\0{deployment}".encode("utf-8", "replace"), digest_size=8).digest()


def conversation_of(session: str, body: Mapping[str, Any]) -> str:
    """What tells conversations apart: the client's own word, else a hash of what never changes from turn to turn."""
    cache_key = body.get("prompt_cache_key")
    if session or (isinstance(cache_key, str) and cache_key):
        return session or str(cache_key)
    head = [body.get("system"), body.get("instructions"), _first(body.get("messages"))]
    head += [_first(body.get("input")), _beginning(body.get("prompt"))]
    return hashlib.blake2b(orjson.dumps(head), digest_size=12).hexdigest()


def _first(turns: object) -> object:
    """The turns before the model's first."""
    if not isinstance(turns, list):
        return _beginning(turns)
    return list(takewhile(lambda turn: isinstance(turn, dict) and turn.get("role") in _THEIRS, turns)) or turns[:1]


def _beginning(prompt: object) -> object:
    return prompt[:PROMPT_HEAD] if isinstance(prompt, str) else None


class Replicas:
    """What this process knows of the replicas: who answers which conversation, and how many requests are open."""

    def __init__(self) -> None:
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._busy: Counter[int] = Counter()

    def pick(self, routes: Sequence[Route], conversation: str) -> Route:
        """The replica for this request, which becomes the conversation's home."""
        route = choose(routes, conversation, self._busy, self._homes.get(conversation))
        self._homes[conversation] = route.deployment
        self._homes.move_to_end(conversation)
        if len(self._homes) > MOST_REMEMBERED:
            self._homes.popitem(last=False)
        return route

    @contextmanager
    def open(self, route: Route) -> Iterator[None]:
        """While a request is open at that replica."""
        self._busy[route.slot] += 1
        try:
            yield
        finally:
            self._busy[route.slot] -= 1
