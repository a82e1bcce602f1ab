"""Sizes of prompts before a request: OpenAI's `/v1/responses/input_tokens`, and servers that do not count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from bouchet_core.deployments import Phase, Traits
from bouchet_core.deployments.attached import AttachedServer, attached_job_name
from bouchet_core.keys import attach_secret, seal_attached_key

from tests.proxy.client import CHAT, COMPLETIONS, COUNT, RESPONSES, chat_body, error_of, get, post, wait_for_status
from tests.proxy.environment import ALIAS, KEY, SERVING_SECRET, WINDOW, RunningProxy, make_deployment
from tests.service.model_server import ModelServer, serving
from tests.waiting import wait_for

INPUT_TOKENS = "/v1/responses/input_tokens"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
THEIRS, THEIR_MODEL = "theirs", "centre/Big-Model"


@pytest.fixture(scope="module", autouse=True)
def deployment(proxy: RunningProxy) -> Iterator[None]:
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    yield
    proxy.environment.move(record.id, Phase.ENDED)
    wait_for_status(proxy, 404)


@pytest.fixture(scope="module")
def theirs(proxy: RunningProxy) -> Iterator[ModelServer]:
    """Attach a server that has chats alone."""
    environment, server = proxy.environment, ModelServer([{"id": THEIR_MODEL}], has_messages=False)
    record = make_deployment(THEIRS, THEIR_MODEL, slot=1, traits=Traits())
    job_name = attached_job_name(record.id)
    sealed = seal_attached_key(attach_secret(SERVING_SECRET), job_name, "")
    job = record.jobs[0].model_copy(update={"name": job_name, "proves": False, "sealed_key": sealed})
    attached = AttachedServer(model=THEIR_MODEL, dialects=("openai",))
    with ExitStack() as stack:
        stack.enter_context(serving(server, environment.slot_base_port + 1))
        record = environment.store.create(record.model_copy(update={"attached": attached, "jobs": (job,)}))
        stack.callback(environment.move, record.id, Phase.ENDED)
        wait_for(lambda: get(proxy, f"/v1/models/{THEIRS}").status_code == 200)
        yield server


@pytest.mark.parametrize("path", [INPUT_TOKENS, "/responses/input_tokens", "/v1/v1/responses/input_tokens"])
def test_input_tokens_are_those_of_the_models_tokenizer(proxy: RunningProxy, path: str) -> None:
    response = post(proxy, path, {"model": ALIAS, "input": "one two three", "instructions": "be kind"})
    assert (response.status_code, response.json()) == (200, {"object": "response.input_tokens", "input_tokens": 5})


def test_input_tokens_of_a_prompt_above_the_window_are_counted(proxy: RunningProxy) -> None:
    items = [{"role": "user", "content": "w " * (WINDOW + 7)}]
    assert post(proxy, INPUT_TOKENS, {"model": ALIAS, "input": items}).json()["input_tokens"] >= WINDOW + 7


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": None},
        {"instructions": "x", "tools": [TOOL]},
        {"input": "x", "stream": True, "max_output_tokens": 0},
        {"input": "x", "reasoning": {"effort": "low"}, "text": {"verbosity": "low"}, "truncation": "auto"},
    ],
)
def test_input_tokens_takes_what_openais_sdk_may_send(proxy: RunningProxy, body: dict[str, Any]) -> None:
    response = post(proxy, INPUT_TOKENS, body)
    assert response.status_code == 200 and response.json()["object"] == "response.input_tokens", response.text


def test_sdk_counts_input_tokens(proxy: RunningProxy) -> None:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=KEY, max_retries=0) as client:
        counted = client.responses.input_tokens.count(model=ALIAS, input=[{"role": "user", "content": "a b"}])
        assert (counted.object, counted.input_tokens) == ("response.input_tokens", 2)
        assert client.responses.input_tokens.count().input_tokens >= 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
        ({"previous_response_id": "resp_1"}, "whole conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt templates are not stored"),
        ({"messages": [{"role": "user", "content": "x"}]}, CHAT),
        ({"input": 5}, "input"),
    ],
)
def test_input_tokens_refuses_what_responses_refuses(proxy: RunningProxy, body: dict[str, Any], words: str) -> None:
    response = post(proxy, INPUT_TOKENS, {"model": ALIAS, **body})
    assert response.status_code == 400 and words in error_of(response)["message"], response.text


@pytest.mark.parametrize("body", [{"prompt": {"id": "pmpt_1"}}, {"previous_response_id": "resp_1"}])
def test_response_that_goes_on_from_what_is_stored_is_refused_as_such(proxy: RunningProxy, body: Any) -> None:
    message = error_of(post(proxy, RESPONSES, {"model": ALIAS, **body}))["message"]
    assert "not stored" in message and COMPLETIONS not in message


def test_unknown_model_is_not_counted(proxy: RunningProxy) -> None:
    response = post(proxy, INPUT_TOKENS, {"model": "gpt-99", "input": "x"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (COUNT, chat_body("x"), "does not count tokens"),
        (INPUT_TOKENS, {"input": "x"}, "does not count tokens"),
        (RESPONSES, {"input": "x"}, "/v1/chat/completions or /v1/messages"),
        (RESPONSES, {"input": "x", "stream": True}, "/v1/chat/completions or /v1/messages"),
        (COMPLETIONS, {"prompt": "x"}, "as a message to /v1/chat/completions"),
    ],
)
def test_path_that_an_attached_server_lacks_is_a_sentence(
    proxy: RunningProxy, theirs: ModelServer, path: str, body: dict[str, Any], words: str
) -> None:
    response = post(proxy, path, {**body, "model": THEIRS})
    message = error_of(response)["message"]
    assert response.status_code == 400 and words in message and THEIRS in message, response.text
    assert path in message


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_chat_of_a_server_that_does_not_count_is_answered(proxy: RunningProxy, theirs: ModelServer, limit: str) -> None:
    body = {"model": THEIRS, "messages": [{"role": "user", "content": "a b"}], limit: 7}
    assert post(proxy, CHAT, body).json()["choices"][0]["message"]["content"] == "a b"
    sent = theirs.generations()[-1]
    assert sent["max_tokens"] == 7 and "max_completion_tokens" not in sent
