"""Several deployments with a policy in one step of the loop: none knows less than the one before it has changed."""

from __future__ import annotations

from typing import Any

from bouchet_core.deployments import Deployment
from bouchet_core.policy import Policy

from tests.worker.scenario import requested
from tests.worker.service.running import FOREVER, TRAITS, Service, live_names

GROUPED = Policy(on_demand=True, exclusive_group="h200")


def add(service: Service, identity: str, policy: Policy, **options: Any) -> None:
    """Create another deployment."""
    record = requested(identity, service.clock(), time="01:00:00", **options)
    service.context.store.create(record.model_copy(update={"policy": policy, "traits": TRAITS}))


def other(service: Service) -> Deployment:
    return service.context.store.get("bb")


def test_two_of_a_group_that_are_asked_for_at_once_do_not_both_start(service: Service) -> None:
    service.launch(GROUPED)
    add(service, "bb", GROUPED)
    service.step(2)
    for identity in ("aa", "bb"):
        service.proxy.load.want(identity, service.clock())
    service.step(3)
    assert len(live_names(service.record) + live_names(other(service))) == 1
    assert any("of the same group" in record.service.waits for record in (service.record, other(service)))


def test_rival_that_is_ending_is_parked_once(service: Service) -> None:
    service.launch(GROUPED, idle_timeout_min=60)
    add(service, "bb", GROUPED)
    service.proxy.load.want("aa", service.clock())
    service.step(2)
    service.start(1)
    service.clock.advance(400)
    service.proxy.load.want("bb", service.clock())
    # Slurm takes a while to end a job
    service.runs_tasks = False
    service.step(5)
    assert service.job(1).stop_requested_at is not None and service.job(1).is_live
    parks = [one for one in service.record.service.decisions if "needs its GPUs" in one.reason]
    assert len(parks) == 1 and live_names(other(service)) == [], "its GPUs are not free yet"
    service.runs_tasks = True
    service.end(1, "COMPLETED")
    service.step(2)
    assert live_names(other(service)) == ["bouchet-bb-1"] and live_names(service.record) == []


def test_deployment_that_cannot_be_placed_any_more_stops_no_other(service: Service) -> None:
    """A partition that the site file no longer has."""
    add(service, "bb", FOREVER, partition="gone")
    service.launch(FOREVER)
    service.step(2)
    assert live_names(service.record) == ["bouchet-aa-1"] and live_names(other(service)) == []
