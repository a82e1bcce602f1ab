"""What dispatch adds to a request: the right key, an error for tools that would not work, and whether it waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.deployments import Deployment, Phase
from bouchet_core.keys import sealed_key, serving_key
from bouchet_core.provenance import SmokeCheck, SmokeTest
from bouchet_proxy.dispatch import is_worth_waiting
from bouchet_proxy.routing.table import NoModelRunning, NotReady, TableNotLoaded, UnknownModel
from bouchet_proxy.settings import HOLD_STARTING_S

from tests.proxy.client import CHAT, COUNT, MESSAGES, RESPONSES, chat_body, error_of, post, wait_for_status
from tests.proxy.environment import ALIAS, JOB, SERVING_SECRET, RunningProxy, make_deployment

REASON = "tool call returned as plain text: parser 'hermes' does not match this model"
FAILED_TOOLS = SmokeTest(tools=SmokeCheck(result="failed", message=REASON))
ANTHROPIC_TOOL = {"name": "bash", "input_schema": {"type": "object"}}
OPENAI_TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
RESPONSES_TOOL = {"type": "function", "name": "bash", "parameters": {"type": "object"}}
ADOPTED_JOB = "bouchet-theirs-1"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LIMIT_S = 240
# Claude Code's own limit for a stream without an event
CLAUDE_CODE_LIMIT_S = 300

Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(proxy: RunningProxy) -> Iterator[Deploy]:
    """Create ready deployments whose job has these fields; all end after the test."""
    records: list[Deployment] = []

    def make(**job_fields: object) -> Deployment:
        record = make_deployment()
        job = record.jobs[0].model_copy(update=job_fields)
        records.append(proxy.environment.store.create(record.model_copy(update={"jobs": (job,)})))
        wait_for_status(proxy, 200)
        return records[-1]

    yield make
    for record in records:
        proxy.environment.move(record.id, Phase.ENDED)
    wait_for_status(proxy, 404)


def test_tools_at_a_model_without_working_tools_are_rejected(proxy: RunningProxy, deploy: Deploy) -> None:
    deploy(smoke=FAILED_TOOLS)
    messages = post(proxy, MESSAGES, chat_body("SAY[hi]", tools=[ANTHROPIC_TOOL], stream=True))
    chat = post(proxy, CHAT, chat_body("SAY[hi]", tools=[OPENAI_TOOL]))
    responses = post(proxy, RESPONSES, {"model": ALIAS, "input": "x", "tools": [RESPONSES_TOOL]})
    for response in (messages, chat, responses):
        assert response.status_code == 400, response.text
        assert error_of(response)["type"] == "invalid_request_error"
        assert REASON in error_of(response)["message"]
    assert error_of(chat)["code"] == "tools_unavailable"


def test_requests_without_tools_at_such_a_model_are_served(proxy: RunningProxy, deploy: Deploy) -> None:
    deploy(smoke=FAILED_TOOLS)
    assert post(proxy, MESSAGES, chat_body("SAY[hi]")).status_code == 200
    assert post(proxy, COUNT, chat_body("x", tools=[ANTHROPIC_TOOL])).status_code == 200
    unused = chat_body("SAY[hi]", tools=[ANTHROPIC_TOOL], tool_choice={"type": "none"})
    assert post(proxy, MESSAGES, unused).status_code == 200


def test_adopted_job_is_served_with_its_sealed_key(proxy: RunningProxy, deploy: Deploy) -> None:
    theirs = serving_key(SERVING_SECRET, JOB)  # the key of the fake vLLM
    deploy(name=ADOPTED_JOB, sealed_key=sealed_key(SERVING_SECRET, ADOPTED_JOB, theirs))
    assert post(proxy, MESSAGES, chat_body("SAY[hi]")).status_code == 200


def not_ready(phase: Phase, start_in_s: float | None = None) -> NotReady:
    start = None if start_in_s is None else NOW + timedelta(seconds=start_in_s)
    return NotReady("tiny", phase, "reason", "", start)


@pytest.mark.parametrize("phase", Phase)
def test_is_worth_waiting_for_every_phase_but_the_last(phase: Phase) -> None:
    ends = phase in (Phase.DRAINING, Phase.PARKED, Phase.ENDED)
    assert is_worth_waiting(not_ready(phase), NOW, LIMIT_S) is not ends
    assert not is_worth_waiting(not_ready(phase), NOW, 0)


@pytest.mark.parametrize(
    ("start_in_s", "expected"), [(None, True), (-60, True), (239, True), (241, False), (86400, False)]
)
def test_is_worth_waiting_in_the_queue_if_slurm_starts_it_in_time(start_in_s: float | None, expected: bool) -> None:
    assert is_worth_waiting(not_ready(Phase.QUEUED, start_in_s), NOW, LIMIT_S) is expected
    assert is_worth_waiting(not_ready(Phase.STARTING, start_in_s), NOW, LIMIT_S)


@pytest.mark.parametrize("phase", [Phase.PARKED, Phase.DRAINING])
def test_is_worth_waiting_for_a_deployment_that_a_request_wakes(phase: Phase) -> None:
    found = replace(not_ready(phase), wakes=True, deployment="aa")
    assert is_worth_waiting(found, NOW, LIMIT_S) and not is_worth_waiting(found, NOW, 0)


def test_is_worth_waiting_without_deployment_is_false() -> None:
    assert not is_worth_waiting(NoModelRunning(()), NOW, LIMIT_S)
    assert not is_worth_waiting(UnknownModel("x", (), (), False), NOW, LIMIT_S)


def test_is_worth_waiting_for_the_routing_table_is_true() -> None:
    assert is_worth_waiting(TableNotLoaded(), NOW, LIMIT_S)


def test_hold_starting_s_default_is_below_claude_codes_limit() -> None:
    assert HOLD_STARTING_S < CLAUDE_CODE_LIMIT_S
