"""A laptop that slept, and a clock that was set: nothing is doubled on waking, and what ended meanwhile is named."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from datetime import timedelta

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.policy import Policy
from bouchet_core.policy.parsing import parse_hours

from tests.conftest import RedisServer
from tests.waiting import wait_for
from tests.worker.service.running import DUE_S, FOREVER, ON_DEMAND, Service, live_names

NIGHT_S = 9 * 3600


def jobs_of(service: Service) -> list[str]:
    return [job.name for job in service.slurm.jobs.values()]


def test_job_that_ended_in_the_night_has_one_successor_after_it(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    slurm_id = service.job(1).slurm_id
    assert slurm_id is not None
    service.slurm.finish(slurm_id, "TIMEOUT")
    service.clock.advance(NIGHT_S)
    # the report of the proxy, and the picture of Slurm, are nine hours old
    service.reports = False
    service.step(1)
    service.reports = True
    service.step(6)
    assert jobs_of(service) == ["bouchet-aa-1", "bouchet-aa-2"]
    assert live_names(service.record) == ["bouchet-aa-2"]
    reasons = [decision.reason for decision in service.record.service.decisions if decision.job == "bouchet-aa-2"]
    assert len(reasons) == 1 and "used up its walltime" in reasons[0] and "kept until" in reasons[0]


def test_successor_that_came_and_went_in_the_night_is_named(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.step(2)
    for number in (1, 2):
        slurm_id = service.job(number).slurm_id
        assert slurm_id is not None
        service.slurm.finish(slurm_id, "TIMEOUT")
    service.clock.advance(NIGHT_S)
    # it is not known whether the second one ever served: it counts as a failed start, after which a minute passes
    service.step(14)
    assert jobs_of(service) == ["bouchet-aa-1", "bouchet-aa-2", "bouchet-aa-3"]
    assert live_names(service.record) == ["bouchet-aa-3"]
    assert [service.job(n).phase for n in (1, 2)] == [Phase.ENDED, Phase.ENDED]
    assert all(service.job(n).reason for n in (1, 2))


def test_successor_that_serves_when_the_laptop_wakes_is_kept(service: Service) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.pass_walltime(1, DUE_S)
    service.step(2)
    slurm_id = service.job(1).slurm_id
    assert slurm_id is not None
    service.slurm.finish(slurm_id, "TIMEOUT")
    service.clock.advance(1800)
    service.start(2)
    service.step(3)
    assert jobs_of(service) == ["bouchet-aa-1", "bouchet-aa-2"]
    assert service.record.phase is Phase.READY and live_names(service.record) == ["bouchet-aa-2"]


@pytest.mark.parametrize("jump_s", [NIGHT_S, -NIGHT_S, 400 * 86_400, -400 * 86_400])
def test_clock_that_is_set_submits_at_most_one_job(service: Service, jump_s: float) -> None:
    service.launch(FOREVER)
    service.start(1)
    service.clock.advance(jump_s)
    service.step(8)
    assert len(jobs_of(service)) <= 2 and 1 <= len(service.record.live_jobs) <= 2
    service.clock.advance(-jump_s)
    service.step(8)
    assert len(jobs_of(service)) <= 2, "one successor at most, whichever way the clock went"


def test_parked_model_is_not_woken_by_yesterdays_request(service: Service) -> None:
    service.launch(ON_DEMAND)
    service.step(2)
    service.runs_tasks = False
    service.proxy.load.want("aa", service.clock())
    service.clock.advance(NIGHT_S)
    service.step(3)
    assert service.record.phase is Phase.PARKED and jobs_of(service) == []


def test_hours_that_passed_in_the_night_start_nothing(service: Service) -> None:
    moment = service.clock()
    window = f"{(moment + timedelta(hours=2)):%H:%M}-{(moment + timedelta(hours=4)):%H:%M}"
    service.launch(Policy(hours=parse_hours(window, "UTC"), zone="UTC"))
    service.step(2)
    begun = len(jobs_of(service))
    assert begun == 1, "it was handed to Slurm in advance"
    slurm_id = service.job(1).slurm_id
    assert slurm_id is not None
    service.slurm.finish(slurm_id, "TIMEOUT")
    service.clock.advance(NIGHT_S)
    service.step(4)
    names = jobs_of(service)
    assert len(names) == len(set(names)) <= 2, "at most tomorrow's job"
    assert all(job.begin_at is not None for job in service.record.live_jobs)


def test_rest_of_the_loop_ends_at_once_when_a_model_is_asked_for(service: Service, redis_server: RedisServer) -> None:
    """A request wakes a model within a moment, although the loop waits for seconds."""
    stopping, waited = threading.Event(), list[float]()
    service.launch(ON_DEMAND)
    assert service.loop._services.wait_for_demand(0.01) is False

    def rest() -> None:
        began = time.monotonic()
        service.loop._rest(stopping, 20)
        waited.append(time.monotonic() - began)

    thread = threading.Thread(target=rest)
    thread.start()
    time.sleep(0.5)
    with closing(redis_server.store("proxy")) as proxy:
        proxy.load.want("aa", service.clock())
    wait_for(lambda: bool(waited), 5)
    thread.join()
    assert 0.4 < waited[0] < 10
    stopping.set()
    began = time.monotonic()
    service.loop._rest(stopping, 20)
    assert time.monotonic() - began < 10, "the end of the worker is not waited for"
