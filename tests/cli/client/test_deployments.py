"""Which deployment a name means."""

from __future__ import annotations

import pytest
from bouchet_cli.client.deployments import pending_deployment, ready_deployment
from bouchet_cli.client.errors import NotReadyError

from tests.cli.samples import NOW, deployment


@pytest.mark.parametrize(
    ("phase", "ending", "state"),
    [
        ("ready", None, "ready"),
        ("ended", "failed", "failed"),
        ("ended", None, "ended"),
        # "idle" would read as if it were still running
        ("ended", "idle", "ended"),
    ],
)
def test_state_of_an_ended_deployment_is_how_it_ended(phase: str, ending: str | None, state: str) -> None:
    assert deployment("a", phase, ending=ending).state == state


def test_ready_deployment_is_the_newest_ready_one() -> None:
    live = [deployment("c", "queued", reason="waits for GPUs"), deployment("b"), deployment("a")]
    assert ready_deployment(live, None).id == "b"
    assert ready_deployment(live, "ORG/A").id == "a"


def test_parked_deployment_will_do_where_a_request_starts_it() -> None:
    parked = deployment("p", "parked", policy={"on_demand": True}, jobs=[])
    assert ready_deployment([parked], None, wakes=True) == parked == ready_deployment([parked], "p", wakes=True)
    assert ready_deployment([parked, deployment("b")], None, wakes=True).id == "b"
    paused = deployment("p", "parked", policy={"on_demand": True}, service={"paused": "3 starts failed"})
    hours = deployment("p", "parked", policy={"hours": {"windows": []}})
    for live in ([paused], [hours], [deployment("c", "queued"), parked]):
        with pytest.raises(NotReadyError):
            ready_deployment(live, None, wakes=True)
    with pytest.raises(NotReadyError, match="parked"):
        ready_deployment([parked], None)
    assert pending_deployment([parked], None) is None


@pytest.mark.parametrize(
    ("name", "mentioned"), [("bouchet-c", r"queued \(waits for GPUs\)"), ("other", "bouchet-c, bouchet-b, bouchet-a")]
)
def test_ready_deployment_names_what_there_is(name: str, mentioned: str) -> None:
    live = [deployment("c", "queued", reason="waits for GPUs"), deployment("b"), deployment("a")]
    with pytest.raises(NotReadyError, match=mentioned):
        ready_deployment(live, name)


def test_no_live_deployment_suggests_launch() -> None:
    with pytest.raises(NotReadyError, match="bouchet launch"):
        ready_deployment([], None)


def test_stopping_deployment_is_neither_ready_nor_pending() -> None:
    stopping = deployment("e", stop_requested_at=NOW.isoformat())
    assert pending_deployment([stopping], None) is None
    with pytest.raises(NotReadyError):
        ready_deployment([stopping], None)


def test_pending_deployment_will_become_ready() -> None:
    queued = deployment("c", "queued")
    assert pending_deployment([queued, deployment("b")], "c") == queued
    assert pending_deployment([deployment("d", "draining")], None) is None


def test_explanation_of_a_starting_deployment_is_its_step() -> None:
    jobs = [{"progress": "loading weights"}]
    assert deployment("a", "starting", jobs=jobs, reason="job 7 is running").explanation == "loading weights"
    assert deployment("a", "queued", jobs=jobs, reason="waits for GPUs").explanation == "waits for GPUs"


@pytest.mark.parametrize(("parser", "is_broken"), [("hermes", False), (None, True)])
def test_broken_tools_of_an_entry_without_parser_are_named(parser: str | None, is_broken: bool) -> None:
    found = deployment("a", traits={"tool_parser": parser}).broken_tools
    assert ("tool_parser" in found) == is_broken


def test_broken_tools_are_those_that_the_smoke_test_found() -> None:
    failed = [{"smoke": {"tools": {"result": "failed", "message": "plain text"}}}]
    assert deployment("a", jobs=failed).broken_tools == "plain text"
    assert deployment("a", jobs=[{"smoke": {"tools": {"result": "ok", "message": ""}}}]).broken_tools == ""
    assert deployment("a", jobs=[]).broken_tools == ""
