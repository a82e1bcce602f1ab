"""What a request says of itself: what is known passes, whatever a client invents is cut down."""

from __future__ import annotations

import pytest
from bouchet_proxy.asgi import Scope
from bouchet_proxy.usage import hints
from bouchet_proxy.usage.hints import CLASSES, CLIENTS, MAX_AGENTS, OTHER, Hints, read_hints


@pytest.fixture(autouse=True)
def _no_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test without an agent that was seen before."""
    monkeypatch.setattr(hints, "_agents", set())


def scope_of(request_class: str = "", agent: str = "", client: str = "") -> Scope:
    """Return the scope of a request with these headers; an empty one is not sent."""
    named = {"x-claude-code-request-class": request_class, "x-claude-code-agent-type": agent, "user-agent": client}
    return {"headers": [(name.encode(), text.encode("latin-1")) for name, text in named.items() if text]}


def test_hints_of_a_request_without_headers_are_empty() -> None:
    assert read_hints(scope_of()) == Hints("", "", "")


def test_hints_of_claude_code_are_its_own_names() -> None:
    found = read_hints(scope_of("subagent", "Explore", "claude-cli/2.1.330 (external, cli)"))
    assert found == Hints("subagent", "Explore", "claude-code")


@pytest.mark.parametrize("request_class", sorted(CLASSES))
def test_request_class_that_is_known_is_kept(request_class: str) -> None:
    assert read_hints(scope_of(request_class)).request_class == request_class


@pytest.mark.parametrize("request_class", ["Main", "main2", "<script>", "x" * 5000, "ä"])
def test_request_class_that_is_unknown_is_other(request_class: str) -> None:
    assert read_hints(scope_of(request_class)).request_class == OTHER


@pytest.mark.parametrize("agent", ["<b>", "-x", "a" * 41, "a\tb", "é", "a/b", "a|b"])
def test_agent_with_an_odd_name_is_other_and_not_remembered(agent: str) -> None:
    assert read_hints(scope_of(agent=agent)).agent == OTHER
    assert agent not in hints._agents


def test_agents_beyond_the_limit_are_other_and_known_ones_stay() -> None:
    names = [f"agent-{number}" for number in range(MAX_AGENTS)]
    assert [read_hints(scope_of(agent=name)).agent for name in names] == names
    assert read_hints(scope_of(agent="one-more")).agent == OTHER
    assert read_hints(scope_of(agent=names[0])).agent == names[0]


@pytest.mark.parametrize(("prefix", "name"), CLIENTS)
def test_client_is_named_by_how_its_user_agent_begins(prefix: str, name: str) -> None:
    assert read_hints(scope_of(client=f"{prefix}1.2")).client == name


@pytest.mark.parametrize("client", ["my-agent/1", " curl", "x curl/8", "\x1b[31m"])
def test_client_that_is_unknown_is_other(client: str) -> None:
    assert read_hints(scope_of(client=client)).client == OTHER
