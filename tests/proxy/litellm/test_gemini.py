"""Gemini's dialect: what a client of Google's API gets, and what the model is asked. Runs the proxy's own process."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Deployment, Phase, Traits

from tests.proxy.client import CHAT, HTTP, chat_body, metrics_text, post, wait_for_status
from tests.proxy.environment import (
    ALIAS,
    KEY,
    MODEL,
    WINDOW,
    ProxyEnvironment,
    RunningProxy,
    make_deployment,
    run_proxy_process,
)
from tests.waiting import wait_for

WEATHER = {"name": "weather", "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}}
HEADERS = {"x-goog-api-key": KEY}
LOAD_TIMEOUT_S = 240
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABc3UBGAAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module", params=[True, False], ids=["direct", "litellm"])
def proxy(environment: ProxyEnvironment, request: pytest.FixtureRequest) -> Iterator[RunningProxy]:
    """Run the proxy, and have it load LiteLLM, which takes seconds and on a busy machine many."""
    with run_proxy_process(environment, direct=request.param) as proxy:
        body = {"contents": [user_content("x")]}
        httpx.post(
            f"{proxy.url}/v1beta/models/none:generateContent", json=body, headers=HEADERS, timeout=LOAD_TIMEOUT_S
        )
        yield proxy


@pytest.fixture(autouse=True)
def deployment(proxy: RunningProxy) -> Iterator[Deployment]:
    record = proxy.environment.store.create(make_deployment())
    wait_for_status(proxy, 200)
    yield record
    for live in proxy.environment.store.live():
        proxy.environment.move(live.id, Phase.ENDED)
    wait_for_status(proxy, 404)


def user_content(text: str) -> dict[str, Any]:
    """Return a content of the user."""
    return {"role": "user", "parts": [{"text": text}]}


def generate(
    proxy: RunningProxy, *contents: dict[str, Any], model: str = ALIAS, method: str = "generateContent", **fields: Any
) -> httpx.Response:
    """Send one request as Google's SDKs do."""
    query = "?alt=sse" if method.startswith("stream") else ""
    url = f"{proxy.url}/v1beta/models/{model}:{method}{query}"
    response = HTTP.post(url, json={"contents": [*contents], **fields}, headers=HEADERS)
    assert not [word for word in ("litellm", "pydantic", "Traceback", "slot-") if word in response.text.lower()]
    return response


def parts_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the parts of a whole answer."""
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["candidates"][0]["content"]["parts"]
    return found


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of a stream, which has no end but that of its body."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines), lines
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def stream_parts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts of all events."""
    return [part for event in events for one in event["candidates"] for part in one["content"].get("parts", ())]


@pytest.mark.parametrize("model", [ALIAS, MODEL, "default", "gemini-2.5-flash"])
def test_generate_answers_in_googles_form(proxy: RunningProxy, model: str) -> None:
    response = generate(proxy, user_content("SAY[hello you]"), model=model)
    assert parts_of(response) == [{"text": "hello you"}]
    body = response.json()
    assert (body["candidates"][0]["finishReason"], body["modelVersion"]) == ("STOP", model)
    usage = body["usageMetadata"]
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"] > 0
    assert proxy.environment.vllm.last_body["model"] == ALIAS


def test_stream_has_text_end_and_counts(proxy: RunningProxy) -> None:
    events = events_of(generate(proxy, user_content("SAY[one two three]"), method="streamGenerateContent"))
    assert "".join(part["text"] for part in stream_parts(events) if "text" in part) == "one two three"
    assert events[-1]["candidates"][0]["finishReason"] == "STOP"
    assert events[-1]["usageMetadata"]["candidatesTokenCount"] > 0


def test_key_in_the_query_opens_this_dialect_alone(proxy: RunningProxy) -> None:
    body = {"contents": [user_content("SAY[ok]")]}
    url = f"{proxy.url}/v1beta/models/{ALIAS}:generateContent"
    assert HTTP.post(f"{url}?key={KEY}", json=body).status_code == 200
    refused = HTTP.post(f"{url}?key=no", json=body)
    assert refused.status_code == 401 and refused.json()["error"]["status"] == "UNAUTHENTICATED"
    assert HTTP.post(f"{proxy.url}{CHAT}?key={KEY}", json=chat_body("x")).status_code == 401


def test_tool_loop_reaches_the_model_as_a_chat(proxy: RunningProxy) -> None:
    tools = [{"functionDeclarations": [WEATHER]}]
    for method in ("generateContent", "streamGenerateContent"):
        asked = 'CALL[weather {"city": "a"}] CALL[weather {"city": "b"}]'
        response = generate(proxy, user_content(asked), method=method, tools=tools)
        parts = parts_of(response) if method == "generateContent" else stream_parts(events_of(response))
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        assert [call["args"] for call in calls] == [{"city": "a"}, {"city": "b"}]
    sent = proxy.environment.vllm.last_body["tools"][0]["function"]
    assert sent["parameters"] == {"type": "object", "properties": {"city": {"type": "string"}}}
    results = [{"functionResponse": {"name": "weather", "response": {"output": word}}} for word in ("sun", "rain")]
    turn = {"role": "user", "parts": [{"text": "SAY[done]"}, *results]}
    called = {"role": "model", "parts": [{"functionCall": call, "thoughtSignature": "x"} for call in calls]}
    assert parts_of(generate(proxy, user_content("x"), called, turn, tools=tools)) == [{"text": "done"}]
    messages = proxy.environment.vllm.last_body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    ids = [call["id"] for call in messages[1]["tool_calls"]]
    assert [message["tool_call_id"] for message in messages[2:4]] == ids and len({*ids}) == 2
    assert "sun" in messages[2]["content"] and "rain" in messages[3]["content"]


def test_settings_reach_the_model(proxy: RunningProxy) -> None:
    config = {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 7,
        "seed": 3,
        "stopSequences": ["zz"],
        "maxOutputTokens": WINDOW * 2,
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
    }
    instruction = {"parts": [{"text": "be"}, {"text": "brief"}]}
    response = generate(proxy, user_content("SAY[ok]"), generationConfig=config, system_instruction=instruction)
    assert parts_of(response) == [{"text": "ok"}]
    sent = proxy.environment.vllm.last_body
    assert (sent["temperature"], sent["top_p"], sent["seed"], sent["stop"]) == (0.5, 0.9, 3, ["zz"])
    assert sent["top_k"] == 7 and sent["max_tokens"] <= WINDOW
    assert sent["response_format"]["json_schema"]["schema"]["properties"] == {"a": {"type": "string"}}
    assert sent["messages"][0] == {"role": "system", "content": "be\n\nbrief"}


def test_what_the_model_cannot_read_is_a_note(proxy: RunningProxy) -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": PIXEL}}
    text = {"inline_data": {"mime_type": "text/plain", "data": base64.b64encode(b"zebra42").decode()}}
    file = {"fileData": {"fileUri": "gs://x/y.pdf", "mimeType": "application/pdf"}}
    parts = [image, text, file, {"videoMetadata": {}}, {"text": "SAY[ok]"}]
    response = generate(proxy, {"role": "user", "parts": parts}, tools=[{"googleSearch": {}}])
    assert parts_of(response) == [{"text": "ok"}]
    sent = json.dumps(proxy.environment.vllm.last_body["messages"])
    assert "An image was here" in sent and "zebra42" in sent and "y.pdf" in sent and PIXEL not in sent
    assert "googleSearch" in sent and "left out" in response.headers["x-bouchet-note"]


def test_text_of_the_model_at_the_end_is_continued(proxy: RunningProxy) -> None:
    begun = {"role": "model", "parts": [{"text": "The capital is"}]}
    response = generate(proxy, user_content("SAY[The capital is Paris]"), begun)
    assert parts_of(response) == [{"text": " Paris"}]


def test_thoughts_never_reach_the_client_as_text(proxy: RunningProxy) -> None:
    environment = proxy.environment
    for live in environment.store.live():
        environment.move(live.id, Phase.ENDED)
    environment.store.create(make_deployment(traits=Traits(thinking="on", tool_parser="hermes", max_output=100)))
    wait_for(lambda: parts_of(generate(proxy, user_content("THINK[secret] SAY[ok]"))) == [{"text": "ok"}])
    events = events_of(generate(proxy, user_content("THINK[secret] SAY[ok]"), method="streamGenerateContent"))
    assert "secret" not in json.dumps(events)
    thought = {"role": "model", "parts": [{"text": "secret", "thought": True}, {"text": "so"}]}
    generate(proxy, user_content("x"), thought, user_content("SAY[ok]"))
    assert "secret" not in json.dumps(environment.vllm.last_body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "contents: is missing"),
        ({"messages": []}, "/v1/chat/completions"),
        ({"contents": "x"}, "contents: must be a list of objects"),
        ({"contents": [{"parts": ["x"]}]}, "contents[0].parts: must be a list of objects"),
        ({"contents": [{"parts": [{"text": 5}]}]}, "contents[0].parts[0].text: must be a string"),
        ({"contents": [{"parts": [{"functionCall": {}}]}]}, "contents[0].parts[0].functionCall: must be an object"),
        ({"contents": [user_content("x")], "tools": "x"}, "tools: must be a list of objects"),
        (
            {"contents": [user_content("x")], "generationConfig": {"maxOutputTokens": "5"}},
            "generationConfig.maxOutputTokens",
        ),
        (
            {"contents": [user_content("x")], "tools": [{"functionDeclarations": [{"name": 5}]}]},
            "tools[0].functionDeclarations[0]",
        ),
    ],
)
def test_invalid_body_is_refused_in_googles_form(proxy: RunningProxy, body: dict[str, Any], expected: str) -> None:
    response = HTTP.post(f"{proxy.url}/v1beta/models/{ALIAS}:generateContent", json=body, headers=HEADERS)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert expected in error["message"] and "pydantic" not in error["message"].lower()


def test_errors_have_googles_form(proxy: RunningProxy) -> None:
    long = generate(proxy, user_content("word " * (WINDOW + 5)))
    assert long.status_code == 400
    assert "input token count" in long.json()["error"]["message"] and str(WINDOW) in long.json()["error"]["message"]
    unknown = generate(proxy, user_content("x"), model="gpt-99")
    assert (unknown.status_code, unknown.json()["error"]["status"]) == (404, "NOT_FOUND")
    failed = generate(proxy, user_content("REFUSE[500]"))
    assert (failed.status_code, failed.json()["error"]["status"]) == (500, "INTERNAL")
    path = HTTP.post(f"{proxy.url}/v1beta/models/x:embedContent", json={}, headers=HEADERS)
    assert path.status_code == 404 and ":generateContent" in path.json()["error"]["message"]


def test_stream_that_is_cut_ends_with_an_error(proxy: RunningProxy) -> None:
    # another job of the model, where there is one, goes on with text, but never with a call
    script = 'CALL[bash {"command": "ls -l /tmp and more of that"}] DIE[3]'
    response = generate(proxy, user_content(script), method="streamGenerateContent")
    last = response.text.strip().rpartition("\n")[2]
    error = json.loads(last)["error"]
    assert error["code"] >= 500 and error["status"] and "litellm" not in error["message"].lower()


def test_waiting_for_a_model_keeps_the_stream_open(proxy: RunningProxy, deployment: Deployment) -> None:
    proxy.environment.move(deployment.id, Phase.STARTING)
    wait_for(lambda: generate(proxy, user_content("x")).status_code == 503)
    url = f"{proxy.url}/v1beta/models/{ALIAS}:streamGenerateContent?alt=sse"
    with HTTP.stream("POST", url, json={"contents": [user_content("SAY[ok]")]}, headers=HEADERS) as response:
        lines = response.iter_lines()
        assert next(lines) == ""
        proxy.environment.move(deployment.id, Phase.READY)
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert stream_parts(events)[0]["text"] == "ok"


def test_count_tokens_and_models(proxy: RunningProxy) -> None:
    counted = generate(proxy, user_content("one two three"), method="countTokens")
    assert counted.status_code == 200 and counted.json()["totalTokens"] >= 3
    inner = {"generateContentRequest": {"contents": [user_content("one two three")]}}
    url = f"{proxy.url}/v1beta/models"
    again = HTTP.post(f"{url}/{ALIAS}:countTokens", json=inner, headers=HEADERS)
    assert again.json() == counted.json()
    long = generate(proxy, user_content("word " * (WINDOW * 2)), method="countTokens")
    assert long.json()["totalTokens"] > WINDOW
    listed = HTTP.get(url, headers=HEADERS).json()["models"]
    assert [one["name"] for one in listed] == [f"models/{ALIAS}"] and listed[0]["inputTokenLimit"] == WINDOW
    assert HTTP.get(f"{url}/{ALIAS}", headers=HEADERS).json() == listed[0]
    missing = HTTP.get(f"{url}/gpt-99", headers=HEADERS)
    assert (missing.status_code, missing.json()["error"]["status"]) == (404, "NOT_FOUND")


def test_requests_are_counted(proxy: RunningProxy) -> None:
    generate(proxy, user_content("SAY[a b c]"))
    label = 'endpoint="/v1beta/models/{model}:generateContent"'
    wait_for(lambda: label in metrics_text(proxy))


def test_chat_beside_it_keeps_its_own_form(proxy: RunningProxy) -> None:
    assert post(proxy, CHAT, chat_body("SAY[ok]")).json()["choices"][0]["message"]["content"] == "ok"
