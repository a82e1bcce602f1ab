"""Which replica serves a conversation."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.routing.affinity import MAX_CONVERSATIONS, ReplicaSelector, choose_replica, conversation_id
from bouchet_proxy.routing.table import Route
from hypothesis import given
from hypothesis import strategies as st


def make_route(slot: int) -> Route:
    return Route(f"d{slot}", f"r{slot}", "org/Shared", slot, f"job{slot}", 4096, Traits())


ROUTES = st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True).map(
    lambda slots: [make_route(slot) for slot in slots]
)
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "fix it"},
    {"role": "system", "content": "a reminder"},
    {"role": "assistant", "content": "done"},
    {"role": "user", "content": "and this"},
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
)


@given(ROUTES, st.text(), st.dictionaries(st.integers(0, 7), st.integers(0, 9)), st.integers(0, 7))
def test_choose_replica_prefers_the_previous_one_then_the_least_busy(
    routes: list[Route], conversation: str, busy: dict[int, int], previous: int
) -> None:
    chosen = choose_replica(routes, conversation, busy, (f"d{previous}", f"job{previous}"))
    if make_route(previous) in routes:
        assert chosen == make_route(previous)
    else:
        assert busy.get(chosen.slot, 0) == min(busy.get(r.slot, 0) for r in routes)


@given(ROUTES, st.integers(1, 60))
def test_select_spreads_new_conversations(routes: list[Route], count: int) -> None:
    selector, chosen = ReplicaSelector(), Counter[int]()
    with ExitStack() as open_requests:
        for n in range(count):
            route = selector.select(routes, f"conversation {n}")
            open_requests.enter_context(selector.track(route))
            chosen[route.slot] += 1
    loads = [chosen[r.slot] for r in routes]
    assert max(loads) - min(loads) <= 1


@given(ROUTES, st.lists(st.text(max_size=3), max_size=30), st.data())
def test_select_same_conversation_returns_the_same_replica(
    routes: list[Route], conversations: list[str], data: st.DataObject
) -> None:
    selector, previous = ReplicaSelector(), dict[str, Route]()
    for conversation in conversations:
        route = selector.select(routes, conversation)
        assert previous.setdefault(conversation, route) == route
    removed = data.draw(st.sampled_from(routes))
    others = [r for r in routes if r != removed]
    for conversation, route in previous.items():
        if others and route != removed:
            assert selector.select(others, conversation) == route


def test_select_by_idle_replicas_is_the_same_after_a_restart() -> None:
    routes = [make_route(n) for n in range(4)]
    chosen = [[ReplicaSelector().select(routes, f"c{n}").slot for n in range(40)] for _ in range(2)]
    assert chosen[0] == chosen[1] and len(set(chosen[0])) == 4


def test_select_remembers_a_limited_number_of_conversations() -> None:
    selector = ReplicaSelector()
    for n in range(MAX_CONVERSATIONS + 10):
        selector.select([make_route(0)], str(n))
    assert selector.conversations == MAX_CONVERSATIONS


@pytest.mark.parametrize("field", ["messages", "input"])
@pytest.mark.parametrize("turns", [3, 4])
def test_conversation_id_is_the_same_for_later_turns(field: str, turns: int) -> None:
    first = conversation_id("", {"system": "be kind", field: TURNS[:2]})
    assert conversation_id("", {"system": "be kind", field: TURNS[:turns]}) == first
    assert conversation_id("", {"system": "be rude", field: TURNS[:turns]}) != first
    assert conversation_id("", {"system": "be kind", field: [{"role": "user", "content": "other"}]}) != first


def test_conversation_id_prefers_the_clients_own() -> None:
    assert conversation_id("abc", {"messages": TURNS}) == conversation_id("abc", {"messages": TURNS[:1]})
    assert conversation_id("", {"prompt_cache_key": "k", "input": "x"}) == conversation_id("k", {"input": "y"})
    assert conversation_id("", {"prompt_cache_key": "k"}) != conversation_id("", {"prompt_cache_key": "l"})


@pytest.mark.parametrize(("session", "cache_key"), [("s" * (1 << 20), ""), ("", "k" * (1 << 20)), ("", "")])
def test_conversation_id_of_any_session_is_short(session: str, cache_key: str) -> None:
    assert len(conversation_id(session, {"prompt_cache_key": cache_key})) == 24


@given(st.dictionaries(st.sampled_from(["messages", "input", "prompt", "system", "prompt_cache_key"]), JSON))
def test_conversation_id_of_any_body_is_stable(body: dict[str, Any]) -> None:
    copied: dict[str, Any] = json.loads(json.dumps(body))
    assert conversation_id("", copied) == conversation_id("", copied)
