"""What dispatch adds to a request: the right key, and an error for tools that would not work."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from bouchet_core.deployments import Deployment, Phase
from bouchet_core.keys import sealed_key, serving_key
from bouchet_core.provenance import SmokeCheck, SmokeTest

from tests.proxy.client import CHAT, COUNT, MESSAGES, RESPONSES, chat_body, error_of, post, wait_for_status
from tests.proxy.environment import ALIAS, JOB, SERVING_SECRET, RunningProxy, make_deployment

REASON = "tool call returned as plain text: parser 'hermes' does not match this model"
FAILED_TOOLS = SmokeTest(tools=SmokeCheck(result="failed", message=REASON))
ANTHROPIC_TOOL = {"name": "bash", "input_schema": {"type": "object"}}
OPENAI_TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
ADOPTED_JOB = "bouchet-theirs-1"

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
    responses = post(proxy, RESPONSES, {"model": ALIAS, "input": "x", "tools": [OPENAI_TOOL]})
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
