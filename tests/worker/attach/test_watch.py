"""What a check at an attached server means for its record, and when the next check is due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bouchet_core.deployments import Deployment, Ending, Job, LaunchRequest, Phase
from bouchet_core.deployments.attached import AttachedServer, AttachError
from bouchet_core.errors import GatewayError
from bouchet_core.provenance import SmokeCheck, SmokeTest
from bouchet_worker.attach.attach import check_place, window_of
from bouchet_worker.attach.probe import ServedModel
from bouchet_worker.attach.watch import ServerCheck, decide_attached, with_decision
from bouchet_worker.notices.rules import notices_of
from bouchet_worker.reconcile.decide import NOTHING, decide
from bouchet_worker.reconcile.observation import Observed, QueryFailed

from tests.worker.scenario import WorkerScenario

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
SERVED = (ServedModel("org/M", 4096),)
NO_ANSWER = ServerCheck(problem="not reachable: no answer within 6 s", failures=1)
REFUSED = ServerCheck(problem="not reachable: refused", is_definite=True, failures=1)
SMOKE = SmokeTest(tools=SmokeCheck(result="failed", message="plain text"))


def attached(phase: Phase = Phase.READY, **job_fields: object) -> Deployment:
    job = Job(name="attached-aa", slot=0, phase=phase, node="node1", port=8000, window=4096, since={Phase.READY: NOW})
    return Deployment(
        id="aa",
        model="org/M",
        names=("theirs", "org/M"),
        request=LaunchRequest(model="org/M"),
        attached=AttachedServer(model="org/M", dialects=("openai",)),
        phase=phase,
        jobs=(job.model_copy(update=job_fields),),
        created_at=NOW,
        updated_at=NOW,
    )


def after(record: Deployment, check: ServerCheck) -> Deployment:
    return with_decision(record, decide_attached(record, check), NOW)


def test_ready_server_that_answers_stays_as_it_is() -> None:
    record = attached()
    assert after(record, ServerCheck(SERVED)) is record


def test_one_check_without_an_answer_changes_nothing_and_two_do() -> None:
    record = attached()
    assert after(record, NO_ANSWER) is record
    away = after(record, ServerCheck(problem=NO_ANSWER.problem, failures=2))
    assert (away.phase, away.reason) == (Phase.STARTING, NO_ANSWER.problem)


def test_refused_connection_is_believed_at_once_and_the_server_comes_back() -> None:
    away = after(attached(smoke=SMOKE), REFUSED)
    assert away.phase is Phase.STARTING and away.job is not None and away.job.smoke is None, "it is tested again"
    back = after(away, ServerCheck((ServedModel("org/M", 2048),)))
    assert (back.phase, back.reason) == (Phase.READY, "")
    assert back.job is not None and back.job.window == 2048


def test_check_that_could_not_be_made_changes_nothing() -> None:
    for record in (attached(), attached(Phase.STARTING)):
        assert after(record, ServerCheck(problem="the tunnel is down", could_ask=False, failures=99)) is record


def test_server_with_another_model_is_not_used() -> None:
    other = after(attached(), ServerCheck((ServedModel("org/Other"),)))
    assert other.phase is Phase.STARTING and "org/Other" in other.reason and "bouchet cancel" in other.reason


def test_failed_smoke_test_stays_visible_while_ready() -> None:
    record = attached(smoke=SMOKE)
    assert after(record, ServerCheck(SERVED)).reason == "ready without tools: plain text"


@pytest.mark.parametrize("check", [ServerCheck(SERVED), REFUSED])
def test_detached_server_is_not_changed_any_more(check: ServerCheck) -> None:
    gone = attached().detached(NOW)
    assert (gone.phase, gone.ending) == (Phase.ENDED, Ending.DETACHED)
    assert gone.job is not None and not gone.job.is_live
    assert after(gone, check) is gone and gone.detached(NOW) is gone


def test_attached_server_makes_no_notices() -> None:
    for record in (attached(), attached(Phase.STARTING), attached().detached(NOW)):
        assert notices_of(record, NOW) == []


def test_reconcile_and_its_attempts_leave_attached_servers_alone() -> None:
    record = attached()
    assert record.attempts() == ()
    assert decide(record, Observed(QueryFailed("not asked", attempted=False)), NOW) is NOTHING


@pytest.mark.parametrize(
    ("served", "named", "expected"), [(4096, None, 4096), (None, 8192, 8192), (4096, 8192, 4096), (None, None, None)]
)
def test_window_is_the_smaller_of_both(served: int | None, named: int | None, expected: int | None) -> None:
    assert window_of(ServedModel("m", served), named) == expected


def test_host_that_slurm_does_not_know_is_refused_and_one_of_the_site_file_is_not(scenario: WorkerScenario) -> None:
    check_place(scenario.context, "node1", 8000)
    with pytest.raises(AttachError, match="Slurm knows no node 'node9'"):
        check_place(scenario.context, "node9", 8000)
    site = scenario.context.site.model_copy(update={"attach_hosts": ("llm.centre.example",)})
    check_place(replace(scenario.context, site=site), "llm.centre.example", 8000)
    scenario.slurm.fault = lambda method, what: "command_timeout" if what == "scontrol" else None
    with pytest.raises(GatewayError):
        check_place(scenario.context, "node1", 8000)
