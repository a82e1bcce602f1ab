"""Deployments with a policy, through the whole loop."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from bouchet_core.deployments import Ending, Phase
from bouchet_core.errors import StaleRecordError
from bouchet_core.policy import Budget, Policy, Replicas
from bouchet_worker.launch.submit import cancel
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.service import engine_load

from tests.conftest import RedisServer
from tests.worker.reconcile.unrecorded import flush
from tests.worker.scenario import MIDWEEK
from tests.worker.service.running import DUE_S, FOREVER, ON_DEMAND, Service, live_names


def test_policy_submits_the_first_job_with_a_reason(service: Service) -> None:
    service.launch(FOREVER)
    service.step()
    assert live_names(service.record) == ["bouchet-aa-1"]
    assert service.job(1).phase is Phase.QUEUED and len(service.slurm.jobs) == 1
    first = service.record.service.decisions[0]
    assert (first.action, first.job) == ("submit", "bouchet-aa-1") and first.reason


def test_renewal_hands_over_and_retires_at_zero_open_requests(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.open_on = 1
    service.step(3)
    assert live_names(service.record) == ["bouchet-aa-1"], "nothing is due yet"
    service.pass_walltime(1, DUE_S)
    service.step(2)
    assert live_names(service.record) == ["bouchet-aa-1", "bouchet-aa-2"]
    assert service.job(2).replaces == "bouchet-aa-1" and service.job(1).slot != service.job(2).slot
    assert service.record.phase is Phase.READY and service.record.job_name == "bouchet-aa-1"
    service.step(5)
    assert len(service.slurm.jobs) == 2, "one successor is enough"
    service.start(2)
    service.step(2)
    assert service.job(1).leaving_since is not None and service.record.job_name == "bouchet-aa-2"
    service.step(5)
    assert service.job(1).stop_requested_at is None, "an answer is open on it"
    service.open_on = None
    service.step(2)
    assert service.job(1).stop_requested_at is not None
    assert ["scancel", "--batch", "--signal=TERM", "101"] in service.slurm.calls
    service.end(1, "COMPLETED")
    assert service.job(1).ending is Ending.COMPLETED and "retired" in service.job(1).reason
    assert service.record.phase is Phase.READY and service.record.ending is None
    assert service.context.store.take_slot("bb", "job", 4) == 0, "its slot is free again"


def test_job_that_was_handed_over_before_the_clock_was_set_back_is_retired(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.step(2)
    service.start(2)
    service.open_on = 1
    service.step(2)
    assert service.job(1).leaving_since is not None
    service.clock.advance(-9 * 3600)
    service.step(2)
    service.open_on = None
    service.step(3)
    assert service.job(1).stop_requested_at is not None and service.job(2).stop_requested_at is None
    assert len(service.slurm.jobs) == 2


def test_job_without_a_fresh_report_of_the_proxy_is_not_retired(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.step(2)
    service.reports = False
    service.start(2)
    service.step()
    assert service.job(1).leaving_since is not None
    service.step(5)
    assert service.job(1).stop_requested_at is None


def test_successor_that_fails_three_times_pauses_and_says_why(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    for number in (2, 3, 4):
        service.step(2)
        service.end(number, "FAILED")
        service.clock.advance(250)
    service.step(4)
    record = service.record
    assert record.service.paused and "3 starts in a row failed" in record.service.paused
    assert len(service.slurm.jobs) == 4, "nothing more is submitted"
    service.end(1)
    assert service.record.phase is Phase.PARKED and service.record.reason == record.service.paused


def test_job_that_ends_unplanned_has_a_successor_at_once(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.end(1, "NODE_FAIL")
    service.step()
    assert live_names(service.record) == ["bouchet-aa-2"] and service.record.is_live
    assert any("node1 failed" in one.reason for one in service.record.service.decisions)


def test_on_demand_parks_at_once_and_wakes_for_a_request(service: Service) -> None:
    service.launch(ON_DEMAND, idle_timeout_min=10)
    service.step()
    assert service.record.phase is Phase.PARKED and not service.slurm.jobs
    service.step(3)
    assert not service.slurm.jobs
    service.proxy.load.want("aa", service.clock())
    service.step(2, held=1)
    assert [job.phase for job in service.record.jobs] == [Phase.QUEUED]
    assert service.record.service.parked_at is None
    assert service.record.service.decisions[-1].action == "wake"
    service.start(1)
    service.step(3)
    service.clock.advance(700)
    service.step(4)
    assert service.job(1).stop_requested_at is not None
    service.end(1, "COMPLETED")
    record = service.record
    assert (record.phase, record.is_live, record.ending) == (Phase.PARKED, True, None)
    assert "no request for" in record.reason


def test_open_request_keeps_an_idle_deployment(service: Service) -> None:
    service.launch(ON_DEMAND, idle_timeout_min=10)
    service.proxy.load.want("aa", service.clock())
    service.step(2, held=1)
    service.start(1)
    service.open_on = 1
    service.clock.advance(1500)
    service.step(4)
    assert service.record.phase is Phase.READY and service.job(1).leaving_since is None


def test_cancel_ends_all_jobs_and_the_deployment(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.step(2)
    cancel(service.context, "aa")
    service.step(2)
    for number in (1, 2):
        service.end(number, "CANCELLED")
    record = service.record
    assert (record.phase, record.ending) == (Phase.ENDED, Ending.CANCELLED)
    assert service.context.store.live() == []


def test_cancel_of_a_parked_deployment_ends_it(service: Service) -> None:
    service.launch(ON_DEMAND)
    service.step()
    assert cancel(service.context, "aa")
    assert service.record.ending is Ending.CANCELLED


def test_keep_that_is_over_ends_the_deployment(service: Service) -> None:
    service.launch(Policy(keep=service.clock() + timedelta(hours=2)))
    service.start(1)
    service.clock.advance(7200)
    service.step(4)
    assert service.record.stop_requested_at is not None
    service.end(1, "COMPLETED")
    assert service.record.phase is Phase.ENDED and "it was kept until" in service.record.reason


def crash(message: str) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise StaleRecordError(message)

    return fail


def test_worker_killed_between_plan_and_submission_leaves_one_successor(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.runs_tasks = False
    service.step(3)
    assert live_names(service.record) == ["bouchet-aa-1", "bouchet-aa-2"] and len(service.slurm.jobs) == 1
    service.runs_tasks = True
    service.loop = ReconcileLoop(service.context, service.loop.observer, service._enqueue)
    service.step(3)
    assert len(service.slurm.jobs) == 2 and service.job(2).slurm_id == 102


def test_plan_of_an_older_version_changes_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    monkeypatch.setattr(service.context.store, "save", crash("aa"))
    service.step(2)
    monkeypatch.undo()
    assert live_names(service.record) == ["bouchet-aa-1"] and len(service.slurm.jobs) == 1
    service.step(2)
    assert len(service.slurm.jobs) == 2


def test_both_jobs_are_found_again_after_redis_lost_its_data(service: Service, redis_server: RedisServer) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.step(2)
    assert len(service.slurm.jobs) == 2
    flush(redis_server)
    service.step(4)
    record = service.record
    assert live_names(record) == ["bouchet-aa-1", "bouchet-aa-2"] and record.policy == FOREVER
    assert len({job.slot for job in record.jobs}) == 2 and len(service.slurm.jobs) == 2


def test_budget_that_is_used_up_parks_after_the_open_answer(service: Service) -> None:
    service.clock.moment = MIDWEEK
    service.launch(Policy(keep="forever", budget=Budget(amount=0.5)))
    service.start(1)
    # the job was submitted for what is left of the budget
    assert service.job(1).asked_walltime_s == 1800
    service.open_on = 1
    service.pass_walltime(1, 60)
    service.step(2)
    assert service.job(1).leaving_since is None or service.job(1).is_live
    service.clock.advance(90)
    service.step(2)
    assert service.job(1).leaving_since is not None and service.job(1).stop_requested_at is None
    service.open_on = None
    service.step(3)
    assert service.record.phase is Phase.PARKED
    assert "is used up" in service.record.reason


def test_load_that_lasts_adds_a_replica(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_load, "READ_EVERY_S", 0.0)
    service.launch(Policy(keep="forever", replicas=Replicas(low=1, high=2)))
    service.start(1)
    service.open_on = 1
    server = service.servers[service.job(1).slot]
    server.waiting = 9
    service.step(5)
    assert live_names(service.record) == ["bouchet-aa-1"], "a minute has not passed"
    service.step(12)
    assert live_names(service.record) == ["bouchet-aa-1", "bouchet-aa-2"]
    assert "9 requests wait" in service.record.service.decisions[-1].reason


def test_planned_maintenance_shortens_the_next_job(service: Service) -> None:
    start = int(service.clock().timestamp()) + 2400
    service.slurm.reservations = (
        f"ReservationName=maint StartTime={start} EndTime={start + 36_000} Duration=10:00:00 Nodes=n[1-9] "
        "PartitionName=(null) Flags=MAINT,IGNORE_JOBS,SPEC_NODES,ALL_NODES Users=root State=INACTIVE\n"
    )
    service.launch(FOREVER)
    service.step()
    asked_s = service.job(1).asked_walltime_s
    assert asked_s is not None and 0 < asked_s < 2400
    assert "to end before the maintenance" in service.record.service.decisions[0].reason
