from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Deployment, LaunchRequest, Phase
from bouchet_proxy.dialects.endpoints import Dialect
from bouchet_proxy.model_list import model_list
from bouchet_proxy.routing.table import NoSuchModel, NothingRuns, Route, Waiting, build_table

from tests.proxy.running import CATALOG, deployment

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def made(name: str, phase: Phase = Phase.READY, age_min: int = 0, tiers: tuple[str, ...] = ()) -> Deployment:
    request = LaunchRequest.model_validate({"model": f"org/{name}", "serve_as": tiers})
    made_at = NOW - timedelta(minutes=age_min)
    return deployment(name, f"org/{name}", phase, request=request, created_at=made_at)


def alias(found: object) -> str:
    assert isinstance(found, Route | Waiting), found
    return found.alias


@pytest.mark.parametrize("name", ["one", "ORG/One", "org/one", "one[1m]", " one "])
def test_a_deployments_own_names_in_any_case(name: str) -> None:
    assert alias(build_table([made("one"), made("two")], {}).find(name)) == "one"


@pytest.mark.parametrize(
    "name", ["claude-sonnet-4-5", "claude-opus-4-1-20250805", "claude-next-2031", "default", "haiku"]
)
def test_claude_names_reach_the_newest_that_is_ready(name: str) -> None:
    table = build_table([made("old", age_min=9), made("new", age_min=5), made("newest", Phase.STARTING)], {})
    assert alias(table.find(name)) == "new"


def test_a_tier_wins_even_while_it_is_starting() -> None:
    table = build_table([made("big"), made("small", Phase.STARTING, tiers=("haiku", "sonnet"))], {})
    assert alias(table.find("claude-3-5-haiku-latest")) == "small"
    assert alias(table.find("claude-opus-5")) == "big"
    assert alias(table.find("claude-future")) == "big"


def test_a_ready_replacement_of_a_draining_namesake_wins() -> None:
    table = build_table(
        [made("one", Phase.DRAINING, age_min=1).model_copy(update={"names": ("old",)}), made("one")], {}
    )
    assert isinstance(table.find("org/one"), Route)


def test_nobody() -> None:
    table = build_table([], CATALOG)
    assert isinstance(table.find("claude-x"), NothingRuns)
    other = table.find("org/other")
    assert isinstance(other, NoSuchModel) and other.in_catalog
    unknown = table.find("gpt-4")
    assert isinstance(unknown, NoSuchModel) and not unknown.in_catalog


def test_ended_deployments_answer_nothing() -> None:
    assert isinstance(build_table([made("one", Phase.ENDED)], {}).find("one"), NoSuchModel)


@pytest.mark.parametrize("phase", [p for p in Phase if p not in (Phase.READY, Phase.ENDED)])
def test_every_other_phase_waits(phase: Phase) -> None:
    found = build_table([made("one", phase)], {}).find("one")
    assert isinstance(found, Waiting) and found.phase is phase


@pytest.mark.parametrize("dialect", Dialect)
def test_only_what_can_be_asked_is_listed(dialect: Dialect) -> None:
    table = build_table([made("one"), made("two", Phase.QUEUED)], CATALOG)
    assert [line["id"] for line in model_list(dialect, table)["data"]] == ["one"]
