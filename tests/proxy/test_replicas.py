from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
from bouchet_core.deployments import Phase, Traits
from bouchet_proxy.routing.affinity import MOST_REMEMBERED, Replicas, choose, conversation_of
from bouchet_proxy.routing.table import Group, Route, Waiting, build_table
from hypothesis import given
from hypothesis import strategies as st

from tests.proxy.running import deployment

MODEL = "org/Shared"


def route(slot: int) -> Route:
    return Route(f"d{slot}", f"r{slot}", MODEL, slot, f"job{slot}", 4096, Traits())


ROUTES = st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True).map(lambda slots: [route(s) for s in slots])


@given(ROUTES, st.text(), st.dictionaries(st.integers(0, 7), st.integers(0, 9)), st.integers(0, 7))
def test_a_conversation_stays_while_its_replica_lives(
    routes: list[Route], conversation: str, busy: dict[int, int], home: int
) -> None:
    chosen = choose(routes, conversation, busy, f"d{home}")
    if route(home) in routes:
        assert chosen == route(home)
    else:
        assert busy.get(chosen.slot, 0) == min(busy.get(r.slot, 0) for r in routes)


@given(ROUTES, st.integers(1, 60))
def test_new_conversations_are_spread(routes: list[Route], count: int) -> None:
    replicas, chosen = Replicas(), Counter[int]()
    with ExitStack() as open_requests:
        for n in range(count):
            picked = replicas.pick(routes, f"conversation {n}")
            open_requests.enter_context(replicas.open(picked))
            chosen[picked.slot] += 1
    loads = [chosen[r.slot] for r in routes]
    assert max(loads) - min(loads) <= 1


@given(ROUTES, st.lists(st.text(max_size=3), max_size=30), st.data())
def test_the_same_conversation_meets_the_same_replica(
    routes: list[Route], conversations: list[str], data: st.DataObject
) -> None:
    replicas, homes = Replicas(), dict[str, Route]()
    for conversation in conversations:
        picked = replicas.pick(routes, conversation)
        assert homes.setdefault(conversation, picked) == picked
    left = data.draw(st.sampled_from(routes))
    others = [r for r in routes if r != left]
    for conversation, home in homes.items():
        if others and home != left:
            assert replicas.pick(others, conversation) == home


def test_idle_replicas_meet_their_conversations_again_after_a_restart() -> None:
    routes = [route(n) for n in range(4)]
    homes = [[Replicas().pick(routes, f"c{n}").slot for n in range(40)] for _ in range(2)]
    assert homes[0] == homes[1] and len(set(homes[0])) == 4


def test_what_is_remembered_is_bounded() -> None:
    replicas = Replicas()
    for n in range(MOST_REMEMBERED + 10):
        replicas.pick([route(0)], str(n))
    assert len(replicas._homes) == MOST_REMEMBERED


TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "fix it"},
    {"role": "system", "content": "a reminder"},
    {"role": "assistant", "content": "done"},
    {"role": "user", "content": "and this"},
]


@pytest.mark.parametrize("field", ["messages", "input"])
@pytest.mark.parametrize("upto", [3, 4])
def test_later_turns_are_the_same_conversation(field: str, upto: int) -> None:
    first = conversation_of("", {"system": "be kind", field: TURNS[:2]})
    assert conversation_of("", {"system": "be kind", field: TURNS[:upto]}) == first
    assert conversation_of("", {"system": "be rude", field: TURNS[:upto]}) != first
    assert conversation_of("", {"system": "be kind", field: [{"role": "user", "content": "other"}]}) != first


def test_the_clients_own_word_wins() -> None:
    assert conversation_of("abc", {"messages": TURNS}) == "abc"
    assert conversation_of("", {"prompt_cache_key": "k", "input": "x"}) == "k"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
)


@given(st.dictionaries(st.sampled_from(["messages", "input", "prompt", "system", "prompt_cache_key"]), JSON))
def test_no_body_is_beyond_it(body: dict[str, Any]) -> None:
    known: dict[str, Any] = json.loads(json.dumps(body))
    assert conversation_of("", known) == conversation_of("", known)


def replica(name: str, phase: Phase = Phase.READY, slot: int = 0, **fields: Any) -> Any:
    return deployment(name, MODEL, phase, slot, names=(name, MODEL) if slot == 0 else (name,), **fields)


def test_the_models_id_and_default_reach_all_replicas_an_alias_its_own() -> None:
    table = build_table([replica("one"), replica("two", slot=1), replica("three", Phase.STARTING, 2)], {})
    for name in (MODEL, "default", "claude-opus-5"):
        found = table.find(name)
        assert isinstance(found, Group) and {r.alias for r in found.routes} == {"one", "two"}
    for name in ("one", "two"):
        found = table.find(name)
        assert isinstance(found, Route) and found.alias == name
    assert isinstance(table.find("three"), Waiting)


def test_a_model_with_another_window_is_no_replica() -> None:
    small = replica("two", slot=1)
    job = small.jobs[0].model_copy(update={"window": 1024})
    table = build_table([replica("one"), small.model_copy(update={"jobs": (job,)})], {})
    assert isinstance(table.find(MODEL), Route)
