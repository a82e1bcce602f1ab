"""What ends a job or hides the cluster while clients stream: no answer is lost, and no job is started twice."""

from __future__ import annotations

import time

import pytest
from bouchet_core.deployments import Phase
from bouchet_core.policy import Policy

from tests.service.running import WAIT_S, Both, Clients
from tests.waiting import wait_for

OUTAGE_S = 12.0
# what asks slurmctld
SLURM = ("squeue", "sbatch", "scontrol", "scancel")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def serving(both: Both) -> Both:
    """Start a deployment that is kept, and wait until the proxy serves it."""
    both.create(Policy(keep="forever"))
    both.wait_for_job(1, Phase.READY)
    both.wait_until_served()
    return both


def continued(both: Both) -> int:
    """Return how many answers another job went on with."""
    return sum(int(request["continued"]) for request in both.store.usage.last(100_000))


def test_cluster_that_does_not_answer_around_a_hand_over_delays_it(serving: Both) -> None:
    clients = Clients(serving.proxy.url)
    with clients.running():
        serving.slurm.fault = lambda method, what: "remote_refused" if what in SLURM else None
        serving.near_its_end(1)
        time.sleep(OUTAGE_S)
        assert len(serving.slurm.jobs) == 1, "nothing is submitted to a cluster that does not answer"
        serving.slurm.fault = lambda method, what: None
        serving.wait_for_job(2, Phase.READY)
        serving.wait_for_job(1, Phase.ENDED)
    assert clients.problems == [] and clients.answered and len(serving.slurm.jobs) == 2
    assert serving.cluster.aborted == 0


def test_answer_of_sbatch_that_is_lost_submits_no_second_job(serving: Both) -> None:
    clients = Clients(serving.proxy.url)
    with clients.running():
        lost: list[str] = []

        def lose(method: str, what: str) -> str | None:
            if what != "sbatch" or len(serving.slurm.jobs) < 2 or lost:
                return None
            lost.append(what)
            return "command_timeout"

        serving.slurm.lose_answer = lose
        serving.near_its_end(1)
        serving.wait_for_job(2, Phase.READY)
        serving.wait_for_job(1, Phase.ENDED)
    assert lost == ["sbatch"], "the fault came"
    assert clients.problems == [] and len(serving.slurm.jobs) == 2


def test_successor_that_fails_three_times_pauses_and_says_why(serving: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_worker.service.submission.RETRY_S", 0.5)
    clients = Clients(serving.proxy.url)
    serving.cluster.fails_from = 2
    with clients.running():
        serving.near_its_end(1)
        wait_for(lambda: bool(serving.record.service.paused), WAIT_S)
        answered = clients.answered
        wait_for(lambda: clients.answered > answered + 4, WAIT_S)
    assert clients.problems == [], "the old job serves on"
    assert "3 starts in a row failed" in serving.record.service.paused
    assert len(serving.slurm.jobs) == 4 and [job.name for job in serving.record.live_jobs] == ["bouchet-aa-1"]


@pytest.mark.parametrize("state", ["NODE_FAIL", "REQUEUED"])
def test_streams_of_a_lost_job_go_on_from_the_next_one(serving: Both, state: str) -> None:
    """A node that fails ends its job, and a preempted one is queued again: either way the clients see one stream."""
    clients = Clients(serving.proxy.url)
    with clients.running():
        wait_for(lambda: clients.answered >= 2, WAIT_S)
        serving.cluster.kill("bouchet-aa-1", state)
        answered = clients.answered
        wait_for(lambda: clients.answered > answered + 8 or bool(clients.problems), WAIT_S)
    assert clients.problems == []
    assert len(serving.slurm.jobs) == (1 if state == "REQUEUED" else 2)
    wait_for(lambda: continued(serving) > 0, 5)


def test_hand_over_goes_on_when_the_worker_comes_back(serving: Both) -> None:
    """The worker is away while the successor becomes ready, and another one finds it."""
    clients = Clients(serving.proxy.url)
    with clients.running():
        serving.near_its_end(1)
        wait_for(lambda: len(serving.slurm.jobs) == 2, WAIT_S)
        serving.restart_worker(after_s=3)
        serving.wait_for_job(2, Phase.READY)
        serving.wait_for_job(1, Phase.ENDED)
    assert clients.problems == [] and len(serving.slurm.jobs) == 2 and serving.cluster.aborted == 0
