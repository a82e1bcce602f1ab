"""Which of several replicas serves a request: the one that served the conversation before, else the least busy.

vLLM keeps the keys and values of prompts that it has seen, so the second turn of a conversation is quick only where the
first one was served. Every other request goes to the replica with the fewest open ones.
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

# conversations whose replica is remembered; the least recently used one is forgotten first
MAX_CONVERSATIONS = 20_000
# characters of a prompt that is one string; it grows with every turn, its beginning stays
PROMPT_HEAD_CHARS = 400
_CLIENT_ROLES = ("user", "system", "developer")


def choose_replica(
    routes: Sequence[Route], conversation: str, open_requests: Mapping[int, int], previous: tuple[str, str] | None
) -> Route:
    """Return the replica for a request.

    open_requests: by slot. previous: the route's identity that served the conversation before. Among equally busy
    replicas a hash decides, so that a restarted proxy mostly chooses the same replica again.
    """
    for route in routes:
        if route.identity == previous:
            return route
    return min(routes, key=lambda route: (open_requests.get(route.slot, 0), _rank(conversation, route)))


def _rank(conversation: str, route: Route) -> bytes:
    return hashlib.blake2b(
        f"{conversation}\0{route.deployment}\0{route.job_name}".encode("utf-8", "replace"), digest_size=8
    ).digest()


def conversation_id(session: str, body: Mapping[str, Any]) -> str:
    """Return a hash that identifies a conversation: of the client's session, else of what is the same in every turn.

    Always a hash: what clients send can be of any size, and is remembered.
    """
    cache_key = body.get("prompt_cache_key")
    if session or (isinstance(cache_key, str) and cache_key):
        return _digest((session or str(cache_key)).encode("utf-8", "replace"))
    head = [body.get("system"), body.get("instructions"), _first_turns(body.get("messages"))]
    head += [_first_turns(body.get("input")), _prompt_head(body.get("prompt"))]
    return _digest(orjson.dumps(head))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def _first_turns(turns: object) -> object:
    """Return the turns before the model's first."""
    if not isinstance(turns, list):
        return _prompt_head(turns)
    return (
        list(takewhile(lambda turn: isinstance(turn, dict) and turn.get("role") in _CLIENT_ROLES, turns)) or turns[:1]
    )


def _prompt_head(prompt: object) -> object:
    return prompt[:PROMPT_HEAD_CHARS] if isinstance(prompt, str) else None


class ReplicaSelector:
    """Remembers which replica serves which conversation, and how many requests each has open."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._open_requests: Counter[int] = Counter()

    @property
    def conversations(self) -> int:
        """How many conversations are remembered."""
        return len(self._jobs)

    def select(self, routes: Sequence[Route], conversation: str) -> Route:
        """Choose the replica for this request, and remember it for the conversation."""
        route = choose_replica(routes, conversation, self._open_requests, self._jobs.get(conversation))
        self._jobs[conversation] = route.identity
        self._jobs.move_to_end(conversation)
        if len(self._jobs) > MAX_CONVERSATIONS:
            self._jobs.popitem(last=False)
        return route

    @contextmanager
    def track(self, route: Route) -> Iterator[None]:
        """Count a request as open at that replica."""
        self._open_requests[route.slot] += 1
        try:
            yield
        finally:
            self._open_requests[route.slot] -= 1
