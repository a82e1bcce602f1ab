"""What the loop of a worker appends, over a real Redis: once each, also after kills, other workers and clock jumps."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import redis
from bouchet_core.deployments import Phase
from bouchet_core.notices import Notice, NoticeKind
from bouchet_core.policy import parse_budget
from bouchet_core.store import Store
from bouchet_worker.notices.watch import NoticeWatch
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer

from tests.conftest import RedisServer
from tests.worker.scenario import MakeWorkerContext, WorkerScenario, write_connection


@pytest.fixture
def appended(redis_server: RedisServer) -> Any:
    """Return a function that lists all notices in the stream."""

    def read() -> list[Notice]:
        store = redis_server.store("notifier")
        found = store.notices.wait({"notices": "0-0"}, 0.01)
        store.close()
        return [one.value for one in found if isinstance(one.value, Notice)]

    return read


def restarted(scenario: WorkerScenario) -> None:
    """Go on with a loop that remembers nothing, as after a kill."""
    scenario.loop = ReconcileLoop(scenario.context, Observer(scenario.context, scenario.probe), scenario._enqueue)


def test_life_of_a_job_is_ready_ending_and_ended_once_each_over_restarts(
    scenario: WorkerScenario, appended: Any
) -> None:
    job_id = scenario.launch(time="01:00:00")
    scenario.step()
    scenario.slurm.start(job_id)
    scenario.step(2)
    write_connection(scenario.slurm, job_id)
    scenario.step(2)
    assert scenario.get().phase is Phase.READY
    scenario.step(2)
    scenario.clock.advance(51 * 60)
    for _ in range(4):
        restarted(scenario)
        scenario.step()
    scenario.context.store.update("aa", lambda record: record.asked_to_stop(scenario.clock()))
    for _ in range(6):
        restarted(scenario)
        scenario.step()
    assert scenario.get().phase is Phase.ENDED
    kinds = [one.kind for one in appended()]
    assert kinds == [NoticeKind.READY, NoticeKind.ENDING, NoticeKind.ENDED]


def test_clock_that_jumps_makes_no_second_notice(scenario: WorkerScenario, appended: Any) -> None:
    job_id = scenario.launch(time="01:00:00")
    scenario.step()
    scenario.slurm.start(job_id)
    scenario.step(2)
    write_connection(scenario.slurm, job_id)
    scenario.step(2)
    for seconds in (52 * 60, -40 * 60, 41 * 60, -3 * 3600, 3 * 3600 + 60):
        scenario.clock.advance(seconds)
        restarted(scenario)
        scenario.step(2)
    assert sorted(one.kind for one in appended()) == [NoticeKind.ENDING, NoticeKind.READY]


def test_failed_start_carries_the_reason(scenario: WorkerScenario, appended: Any) -> None:
    job_id = scenario.launch()
    scenario.step()
    scenario.slurm.start(job_id)
    scenario.step()
    scenario.slurm.finish(job_id, "FAILED", "1:0")
    scenario.step(4)
    (notice,) = appended()
    assert notice.kind is NoticeKind.FAILED_START
    assert notice.text == scenario.get().reason and "exit code 1:0" in notice.text


def test_end_while_no_worker_ran_is_appended_by_the_next_one(scenario: WorkerScenario, appended: Any) -> None:
    """The record ends by a task between two steps, so no step ever sees it live."""
    scenario.launch()
    record = scenario.get()
    now = scenario.clock()
    scenario.context.store.save(
        record.model_copy(update={"phase": Phase.ENDED, "version": record.version + 1, "updated_at": now})
    )
    restarted(scenario)
    scenario.step()
    assert [one.key for one in appended()] == ["ended/aa"]
    scenario.clock.advance(3600)
    restarted(scenario)
    scenario.step()
    assert len(appended()) == 1


def test_two_workers_append_a_notice_once(scenario: WorkerScenario, appended: Any) -> None:
    job_id = scenario.launch()
    scenario.slurm.start(job_id)
    scenario.step(2)
    write_connection(scenario.slurm, job_id)
    scenario.step(2)
    for _ in range(3):
        NoticeWatch(scenario.context).step(scenario.context.store.live(), [])
    assert [one.kind for one in appended()] == [NoticeKind.READY]


def test_budget_of_the_installation_is_noticed_at_80_and_at_100_percent(
    scenario: WorkerScenario, make_context: MakeWorkerContext, appended: Any
) -> None:
    # some hours later it is the same month
    scenario.clock.moment = scenario.clock.moment.replace(day=10)
    job_id = scenario.launch(time="10:00:00")
    scenario.slurm.start(job_id)
    scenario.step(2)
    write_connection(scenario.slurm, job_id)
    scenario.step(2)
    context = make_context(budget=parse_budget("5h/month"))

    def budgets_after(hours: float) -> list[str]:
        scenario.clock.advance(hours * 3600)
        NoticeWatch(context).step(context.store.live(), [])
        NoticeWatch(context).step(context.store.live(), [])
        return [one.title for one in appended() if one.kind is NoticeKind.BUDGET]

    gpus = (scenario.get().job or pytest.fail("no job")).placement.gpus  # type: ignore[union-attr]
    assert budgets_after(3 / gpus) == []
    assert len(budgets_after(1.2 / gpus)) == 1
    assert budgets_after(1.0 / gpus)[1:] == ["all of the installation's budget is used"]


def test_redis_that_refuses_notices_does_not_disturb_the_loop(
    scenario: WorkerScenario, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis(port=redis_server.port, password=redis_server.password) as client:
        client.set("bouchet:notices:known", "not a sorted set")
    job_id = scenario.launch()
    scenario.step()
    scenario.slurm.start(job_id)
    scenario.step(2)
    write_connection(scenario.slurm, job_id)
    scenario.step(3)
    assert scenario.get().phase is Phase.READY
    assert sum("notices:" in line for line in caplog.messages) == 1, "the same problem is logged once"


def test_memory_of_what_is_known_is_bounded(
    redis_server: RedisServer, store: Store, scenario: WorkerScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bouchet_core.store.notices.KNOWN_KEPT", 5)
    monkeypatch.setattr("bouchet_core.store.notices.NOTICES_KEPT", 3)
    now = scenario.clock()
    for number in range(20):
        at = now + timedelta(seconds=number)
        notice = Notice(key=f"k{number}", kind=NoticeKind.READY, title="t", at=at)
        assert store.notices.append([notice, notice], at) == 1
        assert store.notices.append([notice], at) == 0
    with redis.Redis(port=redis_server.port, password=redis_server.password) as client:
        assert (client.zcard("bouchet:notices:known"), client.xlen("bouchet:notices")) == (5, 3)
