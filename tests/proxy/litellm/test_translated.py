"""An attached server that has chats alone, asked in Anthropic's dialect: LiteLLM translates, and no client notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from bouchet_core.deployments import Phase, Traits
from bouchet_core.deployments.attached import AttachedServer, attached_job_name
from bouchet_core.keys import attach_secret, seal_attached_key

from tests.proxy.client import COUNT, MESSAGES, chat_body, error_of, get, post
from tests.proxy.environment import (
    KEY,
    SERVING_SECRET,
    ProxyEnvironment,
    RunningProxy,
    make_deployment,
    run_proxy_process,
)
from tests.proxy.litellm.test_litellm_backend import LOADED_WITHIN_S, is_answered
from tests.service.model_server import ModelServer, last_text, serving
from tests.waiting import wait_for

NAME, MODEL = "chats-alone", "centre/Chats"
TOOLS: Any = [
    {
        "name": "look",
        "description": "Look at a place",
        "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
    }
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sea"}'}}
REFUSED = {
    "too long": "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    "stops": "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 6.",
    "answer": "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total "
    "of 4999 tokens: 4000 tokens from the input messages and 999 tokens for the completion.",
}


class Centre(ModelServer):
    """Calls a tool where the last message says so, and refuses as such servers do."""

    def answer(self, method: str, path: str, authorization: str | None, body: Any) -> tuple[int, Any]:
        """Return status and JSON of the answer."""
        status, answer = super().answer(method, path, authorization, body)
        if status != 200 or "choices" not in answer:
            return status, answer
        text = last_text(body)
        if text.startswith("REFUSE "):
            return 400, {"error": {"message": REFUSED[text.removeprefix("REFUSE ")], "type": "invalid_request_error"}}
        if text.endswith("CALL"):
            spoken, count = text.removesuffix("CALL").strip(), text.count("!") + 1
            calls = [{**CALL, "id": f"call_{number}"} for number in range(1, count + 1)]
            message = {"role": "assistant", "content": spoken or None, "tool_calls": calls}
            answer["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
        return 200, answer


@pytest.fixture(scope="module")
def centre() -> Centre:
    return Centre([{"id": MODEL}], has_messages=False)


@pytest.fixture(scope="module")
def proxy(environment: ProxyEnvironment, centre: Centre) -> Iterator[RunningProxy]:
    record = make_deployment(NAME, MODEL, slot=1, traits=Traits(tool_parser="of the server"))
    job_name = attached_job_name(record.id)
    sealed = seal_attached_key(attach_secret(SERVING_SECRET), job_name, "")
    job = record.jobs[0].model_copy(update={"name": job_name, "proves": False, "sealed_key": sealed})
    attached = AttachedServer(model=MODEL, dialects=("openai",))
    record = environment.store.create(record.model_copy(update={"attached": attached, "jobs": (job,)}))
    with serving(centre, environment.slot_base_port + 1), run_proxy_process(environment, direct=True) as proxy:
        wait_for(lambda: get(proxy, f"/v1/models/{NAME}").status_code == 200)
        wait_for(lambda: is_answered(proxy, MESSAGES, NAME), LOADED_WITHIN_S)
        yield proxy
    environment.move(record.id, Phase.ENDED)


@pytest.fixture
def claude(proxy: RunningProxy) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=proxy.url, api_key=KEY, max_retries=0) as client:
        yield client


def turns(*texts: Any) -> list[Any]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]


def test_tool_is_called_and_its_result_reaches_the_server(claude: anthropic.Anthropic, centre: Centre) -> None:
    asked: Any = {"model": NAME, "max_tokens": 50, "tools": TOOLS}
    first = claude.messages.create(messages=turns("CALL"), **asked)
    call = first.content[-1]
    assert call.type == "tool_use" and (call.name, call.input, first.stop_reason) == ("look", {"at": "sea"}, "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "waves", "is_error": True}
    history = turns("CALL", [block.model_dump() for block in first.content], [result])
    second = claude.messages.create(messages=history, **asked)
    sent = centre.generations()[-1]
    tool = next(message for message in sent["messages"] if message["role"] == "tool")
    assert "Error: waves" in json.dumps(tool) and tool["tool_call_id"] == call.id
    assert sent["tools"][0]["function"]["name"] == "look" and second.content[0].type == "text"


@pytest.mark.parametrize("text", ["CALL", "so CALL", "! CALL", "so then !! CALL"])
@pytest.mark.parametrize("streamed", [False, True])
def test_calls_of_tools_come_as_blocks(claude: anthropic.Anthropic, text: str, streamed: bool) -> None:
    asked: Any = {"model": NAME, "max_tokens": 50, "tools": TOOLS, "messages": turns(text)}
    if streamed:
        with claude.messages.stream(**asked) as stream:
            answer = stream.get_final_message()
    else:
        answer = claude.messages.create(**asked)
    blocks = [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
    assert blocks == [("look", {"at": "sea"})] * (text.count("!") + 1)
    assert len({block.id for block in answer.content if block.type == "tool_use"}) == len(blocks)
    spoken = "".join(block.text for block in answer.content if block.type == "text")
    assert spoken == text.removesuffix("CALL").strip() and answer.stop_reason == "tool_use"


@pytest.mark.parametrize("streamed", [False, True])
def test_prompt_of_claude_code_reaches_the_server(claude: anthropic.Anthropic, centre: Centre, streamed: bool) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}}
    document = {
        "type": "document",
        "title": "T",
        "source": {"type": "text", "media_type": "text/plain", "data": "zebra42"},
    }
    body: Any = {
        "model": NAME,
        "max_tokens": 8192,
        "system": [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}],
        "messages": turns("hi", "yes", [document, image, {"type": "text", "text": "d e f"}]),
        "thinking": {"type": "adaptive"},
        "tools": [*TOOLS, {"type": "web_search_20250305", "name": "web_search"}],
        "metadata": {"user_id": "u"},
        "stop_sequences": ["x1"],
        "extra_body": {"top_k": 5},
    }
    if streamed:
        with claude.messages.stream(**body) as stream:
            answer = stream.get_final_message()
    else:
        answer = claude.messages.create(**body)
    sent = json.dumps(centre.generations()[-1])
    assert answer.content[0].type == "text" and answer.content[0].text.endswith("d e f")
    assert answer.model == NAME and answer.usage.input_tokens == 3
    assert "zebra42" in sent and "An image was here" in sent and "be kind" in sent and "aaaa" not in sent
    assert centre.generations()[-1]["max_tokens"] == 4096 and centre.generations()[-1]["stop"] == ["x1"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("too long", "prompt is too long: 5000 tokens > 4096 maximum"),
        ("stops", "at most 4 stop strings"),
        ("answer", "input length and `max_tokens` exceed context limit: 4000 + 999 > 4096"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusal_of_the_server_is_one_that_anthropics_clients_know(
    proxy: RunningProxy, what: str, words: str, stream: bool
) -> None:
    response = post(proxy, MESSAGES, chat_body(f"REFUSE {what}", model=NAME, stream=stream))
    assert (response.status_code, response.json()["type"]) == (400, "error"), response.text
    assert words in error_of(response)["message"]


def test_tokens_are_counted_in_answers_alone(proxy: RunningProxy) -> None:
    response = post(proxy, COUNT, chat_body("x", model=NAME))
    assert response.status_code == 400 and "`usage` of each answer" in error_of(response)["message"]
