"""The routing table and the model list."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bouchet_core.deployments import Deployment, LaunchRequest, Phase, ServiceState
from bouchet_core.deployments.attached import AttachedServer
from bouchet_core.policy import Policy, parse_hours
from bouchet_core.provenance import SmokeCheck, SmokeTest
from bouchet_proxy.dialects.endpoints import Dialect
from bouchet_proxy.dispatch import is_worth_waiting
from bouchet_proxy.errors import OVERLOADED, unavailable
from bouchet_proxy.model_list import render_model_list
from bouchet_proxy.routing.table import (
    NOT_LOADED,
    NoModelRunning,
    NotReady,
    ReplicaGroup,
    Route,
    RoutingTable,
    TableNotLoaded,
    UnknownModel,
    build_table,
)

from tests.proxy.environment import ALIAS, CATALOG, MODEL, make_deployment

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SHARED_MODEL = "org/Shared"
FAILED_TOOLS = SmokeTest(tools=SmokeCheck(result="failed", message="parser does not match"))


def make(name: str, phase: Phase = Phase.READY, age_min: int = 0, tiers: tuple[str, ...] = ()) -> Deployment:
    request = LaunchRequest.model_validate({"model": f"org/{name}", "serve_as": tiers})
    created_at = NOW - timedelta(minutes=age_min)
    return make_deployment(name, f"org/{name}", phase, request=request, created_at=created_at)


def make_replica(name: str, phase: Phase = Phase.READY, slot: int = 0, **fields: Any) -> Deployment:
    names = (name, SHARED_MODEL) if slot == 0 else (name,)
    return make_deployment(name, SHARED_MODEL, phase, slot, names=names, **fields)


def with_smoke_test(record: Deployment, smoke: SmokeTest) -> Deployment:
    job = record.jobs[0].model_copy(update={"smoke": smoke})
    return record.model_copy(update={"jobs": (job,)})


def alias_of(found: object) -> str:
    assert isinstance(found, Route | NotReady), found
    return found.alias


@pytest.mark.parametrize("name", ["one", "ORG/One", "org/one", "one[1m]", " one "])
def test_find_own_name_in_any_case_returns_the_deployment(name: str) -> None:
    assert alias_of(build_table([make("one"), make("two")], {}).find(name)) == "one"


@pytest.mark.parametrize(
    "name", ["claude-sonnet-4-5", "claude-opus-4-1-20250805", "claude-next-2031", "default", "haiku"]
)
def test_find_claude_name_returns_the_newest_ready_deployment(name: str) -> None:
    table = build_table([make("old", age_min=9), make("new", age_min=5), make("newest", Phase.STARTING)], {})
    assert alias_of(table.find(name)) == "new"


def test_find_tier_returns_its_deployment_even_while_starting() -> None:
    table = build_table([make("big"), make("small", Phase.STARTING, tiers=("haiku", "sonnet"))], {})
    assert alias_of(table.find("claude-3-5-haiku-latest")) == "small"
    assert alias_of(table.find("claude-opus-5")) == "big"
    assert alias_of(table.find("claude-future")) == "big"


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("anthropic/claude-sonnet-4-5", "small"),
        ("openrouter/anthropic/claude-haiku-4.5", "small"),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "big"),
        ("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "small"),
        ("vertex_ai/claude-opus-4@20250514", "big"),
        ("Anthropic/Claude-Opus-4-5[1m]", "big"),
    ],
)
def test_claude_name_may_have_its_provider_before_it(name: str, alias: str) -> None:
    table = build_table([make("big"), make("small", tiers=("haiku", "sonnet"))], {})
    assert alias_of(table.find(name)) == alias


@pytest.mark.parametrize("name", ["someone/claude-distilled-7b", "anthropic/other", "my-claude"])
def test_name_with_claude_in_it_is_no_claude_name(name: str) -> None:
    assert isinstance(build_table([make("big")], {}).find(name), UnknownModel)


def test_find_model_prefers_the_ready_replacement_of_a_draining_deployment() -> None:
    draining = make("one", Phase.DRAINING, age_min=1).model_copy(update={"names": ("old",)})
    assert isinstance(build_table([draining, make("one")], {}).find("org/one"), Route)


def test_find_in_an_empty_table_knows_the_catalog() -> None:
    table = build_table([], CATALOG)
    assert isinstance(table.find("claude-x"), NoModelRunning)
    other = table.find("org/other")
    assert isinstance(other, UnknownModel) and other.in_catalog
    unknown = table.find("gpt-4")
    assert isinstance(unknown, UnknownModel) and not unknown.in_catalog


@pytest.mark.parametrize("name", ["default", "claude-x", "org/one"])
def test_find_before_the_store_was_read_returns_not_loaded(name: str) -> None:
    assert isinstance(NOT_LOADED.find(name), TableNotLoaded)


def test_find_ended_deployment_is_unknown() -> None:
    assert isinstance(build_table([make("one", Phase.ENDED)], {}).find("one"), UnknownModel)


@pytest.mark.parametrize("phase", [p for p in Phase if p not in (Phase.READY, Phase.ENDED)])
def test_find_deployment_of_any_other_phase_is_not_ready(phase: Phase) -> None:
    found = build_table([make("one", phase)], {}).find("one")
    assert isinstance(found, NotReady) and found.phase is phase


def listed_names(dialect: Dialect, table: RoutingTable) -> list[str]:
    """Return the names in a dialect's list of models."""
    found = render_model_list(dialect, table)
    if dialect is Dialect.GOOGLE:
        return [entry["baseModelId"] for entry in found["models"]]
    return [entry["id"] for entry in found["data"]]


@pytest.mark.parametrize("dialect", Dialect)
def test_model_list_has_ready_models_only(dialect: Dialect) -> None:
    table = build_table([make("one"), make("two", Phase.QUEUED)], CATALOG)
    assert listed_names(dialect, table) == ["one"]


def test_find_model_id_returns_all_replicas_and_an_alias_its_own() -> None:
    table = build_table(
        [make_replica("one"), make_replica("two", slot=1), make_replica("three", Phase.STARTING, 2)], {}
    )
    for name in (SHARED_MODEL, "default", "claude-opus-5"):
        found = table.find(name)
        assert isinstance(found, ReplicaGroup) and {r.alias for r in found.routes} == {"one", "two"}
    for name in ("one", "two"):
        found = table.find(name)
        assert isinstance(found, Route) and found.alias == name
    assert isinstance(table.find("three"), NotReady)


def test_model_with_another_window_is_no_replica() -> None:
    small = make_replica("two", slot=1)
    job = small.jobs[0].model_copy(update={"window": 1024})
    table = build_table([make_replica("one"), small.model_copy(update={"jobs": (job,)})], {})
    assert isinstance(table.find(SHARED_MODEL), Route)


def test_model_without_tools_is_no_replica_of_one_with_tools() -> None:
    working, broken = make_deployment("one"), with_smoke_test(make_deployment("two", slot=1), FAILED_TOOLS)
    assert not isinstance(build_table([working, broken], {}).find(MODEL), ReplicaGroup)
    assert isinstance(build_table([working, make_deployment("two", slot=1)], {}).find(MODEL), ReplicaGroup)


@pytest.mark.parametrize("result", ["ok", "not_tried"])
def test_smoke_test_without_failure_keeps_tools(result: str) -> None:
    smoke = SmokeTest(tools=SmokeCheck.model_validate({"result": result, "message": "x"}))
    found = build_table([with_smoke_test(make_deployment(), smoke)], {}).find(ALIAS)
    assert isinstance(found, Route) and found.no_tools == ""


def with_jobs(record: Deployment, *changes: dict[str, Any]) -> Deployment:
    """Return the record with one job for each of these changes, under a policy that keeps it."""
    job = record.jobs[0]
    jobs = tuple(job.model_copy(update={"name": f"job-{n}", "slot": n, **c}) for n, c in enumerate(changes, 1))
    return record.model_copy(update={"jobs": jobs, "policy": Policy(keep="forever")}).settled()


def test_jobs_of_one_deployment_share_its_requests_until_one_leaves() -> None:
    two = build_table([with_jobs(make("one"), {}, {})], {}).find("one")
    assert isinstance(two, ReplicaGroup) and {route.job_name for route in two.routes} == {"job-1", "job-2"}
    left = build_table([with_jobs(make("one"), {"leaving_since": NOW}, {})], {}).find("one")
    assert isinstance(left, Route) and left.job_name == "job-2"


def test_job_that_leaves_without_a_successor_gets_no_requests() -> None:
    coming = {"phase": Phase.STARTING, "progress": "loading weights"}
    found = build_table([with_jobs(make("one"), {"leaving_since": NOW}, coming)], {}).find("one")
    assert isinstance(found, NotReady) and (found.phase, found.progress) == (Phase.STARTING, "loading weights")


@pytest.mark.parametrize("dialect", Dialect)
def test_parked_model_is_listed_and_a_request_wakes_it(dialect: Dialect) -> None:
    ended = make("one").jobs[0].model_copy(update={"phase": Phase.ENDED, "times": {"load": 30.0, "ready": 30.0}})
    service = ServiceState(parked_at=NOW)
    parked = make("one").model_copy(update={"jobs": (ended,), "policy": Policy(on_demand=True), "service": service})
    table = build_table([parked.settled()], {})
    found = table.find("one")
    assert isinstance(found, NotReady) and found.phase is Phase.PARKED and found.wakes and found.expected_s == 30.0
    assert listed_names(dialect, table) == ["one"]


def test_paused_or_closed_deployment_is_not_woken() -> None:
    hours = parse_hours("mon-fri 08:30-18:00", "UTC")
    sunday = NOW
    for policy, service in (
        (Policy(on_demand=True), ServiceState(paused="why")),
        (Policy(hours=hours), ServiceState()),
    ):
        record = make("one").model_copy(update={"jobs": (), "policy": policy, "service": service}).settled()
        found = build_table([record], {}, sunday).find("one")
        assert isinstance(found, NotReady) and not found.wakes


def make_attached(name: str, model: str, phase: Phase = Phase.READY, slot: int = 3, **job: object) -> Deployment:
    record = make_deployment(name, model, phase, slot, names=(name,), created_at=NOW)
    place = record.jobs[0].model_copy(update={"proves": False, "sealed_key": "attached:", **job})
    server = AttachedServer(model="other/name", dialects=("openai",))
    return record.model_copy(update={"attached": server, "jobs": (place,)})


def test_attached_server_is_asked_by_its_own_name_and_is_no_replica() -> None:
    ours = make_replica("ours")
    table = build_table([ours, make_attached("theirs", SHARED_MODEL)], {})
    theirs = table.find("theirs")
    assert isinstance(theirs, Route) and theirs.attached and theirs.served_as == "other/name"
    assert (theirs.is_vllm, theirs.translates) == (False, True)
    assert alias_of(table.find(SHARED_MODEL)) == "ours" == alias_of(table.find("default"))
    mine = table.find("ours")
    assert isinstance(mine, Route) and mine.served_as == "ours" and mine.is_vllm and not mine.translates


def test_attached_server_is_reached_by_the_model_while_no_job_of_ours_is_ready() -> None:
    table = build_table([make_replica("ours", Phase.STARTING), make_attached("theirs", SHARED_MODEL)], {})
    assert alias_of(table.find(SHARED_MODEL)) == "theirs"


@pytest.mark.parametrize("phase", [Phase.READY, Phase.STARTING])
@pytest.mark.parametrize("called", ["ours", "OURS", "default", "claude-opus-4-1", "sonnet", "anthropic/claude-x"])
def test_attached_server_takes_no_name_of_ours_by_what_it_calls_its_model(called: str, phase: Phase) -> None:
    theirs = make_attached("theirs", called)
    ours = make_replica("ours", phase)
    for names in (("theirs",), ("theirs", called)):
        table = build_table([ours, theirs.model_copy(update={"names": names})], {})
        without = build_table([ours, make_attached("theirs", "x")], {})
        assert alias_of(table.find("theirs")) == "theirs"
        for name in (called, "ours", "default", "claude-opus-4-1"):
            assert alias_of(table.find(name)) == alias_of(without.find(name))


def test_attached_server_that_is_away_is_an_error_to_retry_and_not_waited_for() -> None:
    found = build_table([make_attached("theirs", "x", Phase.STARTING)], {}).find("theirs")
    assert isinstance(found, NotReady) and found.attached and not is_worth_waiting(found, NOW, 240.0)
    error = unavailable(found, NOW)
    assert error.status == OVERLOADED and error.retry_after_s and "not ours" in error.message
