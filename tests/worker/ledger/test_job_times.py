"""What a worker appends about jobs, over a fake Slurm and a real Redis: also when it was killed in between."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from bouchet_core.deployments import Deployment, Phase
from bouchet_core.ledger import JobEntry, SpanKind
from bouchet_core.store.load import JobLoad, LoadReport
from bouchet_worker.reconcile.loop import ReconcileLoop
from bouchet_worker.reconcile.observe import Observer

from tests.conftest import RedisServer
from tests.worker.ledger.appended import read_entries
from tests.worker.scenario import WorkerScenario, write_connection

Spans = dict[datetime, tuple[SpanKind, datetime | None]]


def appended(server: RedisServer) -> list[JobEntry]:
    """Return all entries about jobs, oldest first."""
    return [one for one in read_entries(server) if isinstance(one, JobEntry)]


def spans_of(server: RedisServer, job: str) -> list[tuple[SpanKind, float | None]]:
    """Return kind and seconds of the job's spans as the ledger would have them, in order."""
    spans: Spans = {}
    for entry in appended(server):
        if entry.job == job:
            for span in entry.spans:
                before = spans.get(span.start, (span.kind, None))[1]
                spans[span.start] = span.kind, span.end or before
    return [
        (kind, None if end is None else (end - start).total_seconds()) for start, (kind, end) in sorted(spans.items())
    ]


def restarted(scenario: WorkerScenario) -> None:
    """Go on with a loop that remembers nothing, as after a kill."""
    scenario.loop = ReconcileLoop(scenario.context, Observer(scenario.context, scenario.probe), scenario._enqueue)


def run_life(scenario: WorkerScenario, *, kills: bool) -> str:
    """Let a job wait 60 s, start for 120 s, serve for 300 s and be cancelled; return its name."""

    def later(seconds: float) -> None:
        if kills:
            restarted(scenario)
        scenario.clock.advance(seconds)

    job_id = scenario.launch()
    job = scenario.get().job
    assert job is not None
    scenario.step()
    later(60)
    scenario.slurm.start(job_id)
    scenario.step(2)
    later(120)
    write_connection(scenario.slurm, job_id)
    scenario.step(2)
    assert scenario.get().phase is Phase.READY
    later(300)
    scenario.context.store.update("aa", lambda record: record.asked_to_stop(scenario.clock()))
    scenario.step(2)
    later(10)
    scenario.step(3)
    assert scenario.get().phase is Phase.ENDED
    scenario.step()
    return job.name


@pytest.mark.parametrize("kills", [False, True])
def test_a_life_is_a_span_for_each_thing_that_the_job_did(
    scenario: WorkerScenario, redis_server: RedisServer, kills: bool
) -> None:
    name = run_life(scenario, kills=kills)
    found = [(kind, round(seconds or 0)) for kind, seconds in spans_of(redis_server, name) if seconds]
    assert found[:3] == [(SpanKind.QUEUED, 60), (SpanKind.STARTING, 120), (SpanKind.SERVING, 300)]
    assert {kind for kind, _ in found[3:]} <= {SpanKind.DRAINING}
    last = appended(redis_server)[-1]
    assert (last.job, last.ending, last.gpus) == (name, "cancelled", 1)
    assert last.ended_at is not None and last.submitted_at is not None
    # nothing is appended any more
    count = len(appended(redis_server))
    restarted(scenario)
    scenario.step(3)
    assert len(appended(redis_server)) == count


def test_requeued_job_is_queued_and_started_again(scenario: WorkerScenario, redis_server: RedisServer) -> None:
    job_id = scenario.ready()
    job = scenario.get().job
    assert job is not None
    scenario.step()
    scenario.clock.advance(100)
    scenario.slurm.requeue(job_id)
    scenario.step(2)
    scenario.clock.advance(50)
    scenario.slurm.start(job_id)
    scenario.step(2)
    kinds = [(kind, seconds) for kind, seconds in spans_of(redis_server, job.name) if seconds is None or seconds >= 1]
    assert kinds[-3:] == [(SpanKind.SERVING, 100.0), (SpanKind.QUEUED, 50.0), (SpanKind.STARTING, None)]


def test_ready_job_is_idle_from_its_last_answer_on(scenario: WorkerScenario, redis_server: RedisServer) -> None:
    scenario.ready()
    job = scenario.get().job
    assert job is not None
    proxy = redis_server.store("proxy")

    def use(open_requests: int, last_end: datetime | None, step_s: float) -> None:
        report = JobLoad(open=open_requests, last_end=last_end)
        proxy.load.report(LoadReport(at=scenario.clock(), jobs={job.name: report}))
        scenario.step()
        scenario.clock.advance(step_s)

    use(1, None, 100)
    answered = scenario.clock()
    use(0, answered, 40)
    use(0, answered, 40)
    use(0, answered, 200)
    use(1, answered, 30)
    use(0, scenario.clock(), 5)
    proxy.close()
    found = [(kind, seconds) for kind, seconds in spans_of(redis_server, job.name) if seconds is None or seconds > 1]
    assert found[-3:] == [(SpanKind.SERVING, 100.0), (SpanKind.IDLE, 280.0), (SpanKind.SERVING, None)]


def test_deployment_that_ended_while_no_worker_ran_is_appended(
    scenario: WorkerScenario, redis_server: RedisServer
) -> None:
    scenario.ready()
    restarted(scenario)
    scenario.clock.advance(50)

    def end(record: Deployment) -> Deployment:
        return record.moved(Phase.ENDED, scenario.clock(), reason="it ended")

    scenario.context.store.update("aa", end)
    restarted(scenario)
    scenario.clock.advance(timedelta(hours=1).total_seconds())
    scenario.step()
    job = scenario.get().jobs[0]
    assert appended(redis_server)[-1].ended_at == job.since[Phase.ENDED]
    assert spans_of(redis_server, job.name)[-1] == (SpanKind.SERVING, 50.0)
