"""What a client sees, whichever way its request takes. Subclasses give a `door` fixture."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Deployment, LaunchRequest, Phase
from bouchet_core.store import Store
from bouchet_proxy.streams.sse import Event, events
from bouchet_proxy.usage.request import session_hash

from tests.proxy.running import ALIAS, KEY, MODEL, SERVING_SECRET, WINDOW, Door, deployment
from tests.proxy.stream_checker import check_stream

MESSAGES, CHAT, COUNT = "/v1/messages", "/v1/chat/completions", "/v1/messages/count_tokens"
LIBRARY_WORDS = ("litellm", "slot-0", "hosted_vllm", "aiohttp", "Traceback")


def ask(text: str, **fields: Any) -> dict[str, Any]:
    """A body that both dialects take."""
    return {"model": ALIAS, "max_tokens": 100, "messages": [{"role": "user", "content": text}], **fields}


def post(door: Door, path: str, body: object, **headers: str) -> httpx.Response:
    """One request with the key, its whole answer read; streams are legal, and no answer names what is behind."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"x-api-key": KEY, "content-type": "application/json", **headers}
    answer = httpx.post(door.url + path, content=data, headers=sent, timeout=30)
    for word in LIBRARY_WORDS:
        assert word.lower() not in answer.text.lower(), answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        check_stream(path, answer.content)
    return answer


def checked(answer: httpx.Response) -> list[Event]:
    """The events of a legal Anthropic stream, complete or ended by an error."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    return check_stream(MESSAGES, answer.content)


def text_of(found: list[Event]) -> str:
    """The text that an Anthropic stream carries."""
    deltas = [event.json()["delta"] for event in found if event.name == "content_block_delta"]
    return "".join(delta.get("text", "") for delta in deltas)


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    """The objects of an OpenAI stream, which must end with [DONE]."""
    *found, last = [event for event in events([answer.content]) if event.data]
    assert last.data == b"[DONE]"
    return [event.json() for event in found]


def until(condition: Any) -> None:
    """Waits a little for the routing table."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "the routing table did not follow"
        time.sleep(0.02)


class Contract:
    """All of it runs over every way."""

    @pytest.fixture(autouse=True)
    def served(self, door: Door) -> Iterator[Deployment]:
        """The model's deployment, ready, and gone after the test."""
        store = door.ground.store
        made = store.create(deployment())
        until(lambda: self._status(door, ask("SAY[ok]")) == 200)
        yield made
        for live in store.live():
            self._end(store, live.id)
        until(lambda: self._status(door, ask("SAY[ok]")) == 404)

    def _status(self, door: Door, body: dict[str, Any]) -> int:
        return post(door, COUNT, body).status_code

    def _end(self, store: Store, identity: str) -> None:
        store.update(identity, lambda d: d.moved(Phase.ENDED, datetime.now(UTC)))

    # answers

    @pytest.mark.parametrize("name", [ALIAS, MODEL, "default", "claude-sonnet-9-20991231", "claude-opus-4-5[1m]"])
    def test_every_name_reaches_the_model_and_comes_back(self, door: Door, name: str) -> None:
        answer = post(door, MESSAGES, ask("SAY[hello you]", model=name))
        assert answer.status_code == 200, answer.text
        assert answer.json()["content"] == [{"type": "text", "text": "hello you"}]
        assert answer.json()["model"] == name
        assert door.ground.fake.last_body()["model"] == ALIAS

    def test_a_stream_is_legal_whole_and_under_the_clients_name(self, door: Door) -> None:
        answer = post(door, MESSAGES, ask("SAY[one two three]", model="claude-haiku-x", stream=True))
        found = checked(answer)
        assert text_of(found) == "one two three"
        assert found[0].json()["message"]["model"] == "claude-haiku-x"

    def test_an_openai_answer(self, door: Door) -> None:
        answer = post(door, CHAT, ask("SAY[hello you]", model=MODEL))
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == "hello you"
        assert answer.json()["model"] == MODEL

    def test_an_openai_stream(self, door: Door) -> None:
        found = chunks(post(door, CHAT, ask("SAY[one two three]", stream=True)))
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in found) == "one two three"
        assert {c["model"] for c in found} == {ALIAS}

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_completion(self, door: Door, streamed: bool) -> None:
        body = {"model": MODEL, "prompt": "SAY[one two]", "max_tokens": 64000, "stream": streamed}
        answer = post(door, "/v1/completions", body)
        assert answer.status_code == 200, answer.text
        found = chunks(answer) if streamed else [answer.json()]
        assert "".join(c["choices"][0]["text"] or "" for c in found) == "one two"
        assert {c["model"] for c in found} == {MODEL}
        assert door.ground.fake.last_body()["max_tokens"] == WINDOW

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_tool_call(self, door: Door, streamed: bool) -> None:
        tools = [{"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}]
        body = ask(
            'SAY[look <think> here] CALL[weather {"city": "<think>Paris</think>"}]', tools=tools, stream=streamed
        )
        answer = post(door, MESSAGES, body)
        if streamed:
            deltas = [e.json()["delta"] for e in checked(answer) if e.name == "content_block_delta"]
            given = json.loads("".join(d.get("partial_json", "") for d in deltas))
        else:
            given = answer.json()["content"][1]["input"]
        assert given == {"city": "<think>Paris</think>"}

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_think_block_is_taken_off(self, door: Door, streamed: bool) -> None:
        answer = post(door, MESSAGES, ask("SAY[the <think> tag] THINK[let me see, a b c]", stream=streamed))
        text = text_of(checked(answer)) if streamed else answer.json()["content"][0]["text"]
        assert text == "the <think> tag"

    def test_the_model_gets_its_limits_and_no_foreign_field(self, door: Door) -> None:
        system = [{"type": "text", "text": "x-anthropic-billing-header: a=1"}, {"type": "text", "text": "be kind"}]
        turns = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]
        foreign = {"context_management": {"edits": []}, "metadata": {"user_id": "u"}, "made_up": 1}
        body = {"model": ALIAS, "max_tokens": 64000, "system": system, "messages": turns, **foreign}
        assert post(door, f"{MESSAGES}?beta=true", body).status_code == 200
        seen = door.ground.fake.last_body()
        assert seen["max_tokens"] == WINDOW
        assert seen["system"] == [{"type": "text", "text": "be kind"}]
        reminder = {"role": "user", "content": "<system-reminder>\nb\n</system-reminder>"}
        assert seen["messages"] == [turns[0], reminder, turns[2]]
        assert seen["thinking"] == {"type": "disabled"}
        assert not set(seen) & set(foreign)

    def test_openai_limits_and_no_field_that_steers_the_library(self, door: Door) -> None:
        steering = {"api_base": "http://127.0.0.1:9", "api_key": "x", "mock_response": "no", "fallbacks": ["a"]}
        answer = post(door, CHAT, ask("SAY[yes]", max_tokens=64000, **steering))
        assert answer.json()["choices"][0]["message"]["content"] == "yes"
        seen = door.ground.fake.last_body()
        assert seen["max_tokens"] == WINDOW
        assert not set(seen) & set(steering)

    def test_tokens_are_counted_by_the_model(self, door: Door) -> None:
        body = ask("one two three", system="four five")
        counted = post(door, COUNT, body).json()["input_tokens"]
        assert counted == post(door, MESSAGES, body).json()["usage"]["input_tokens"] == 5

    # usage

    @pytest.mark.parametrize("path", [MESSAGES, CHAT])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_what_was_used_is_on_record(self, door: Door, path: str, streamed: bool) -> None:
        session = f"{path}-{streamed}-{time.time()}"
        answer = post(door, path, ask("SAY[one two three]", stream=streamed), **{"x-session-id": session})
        assert answer.status_code == 200
        if path == CHAT and streamed:
            assert not any(chunk.get("usage") for chunk in chunks(answer)), "counts that nobody asked for"
        kept = session_hash(session, SERVING_SECRET.encode())
        until(lambda: kept in [record["session"] for record in door.ground.store.usage.last()])
        record = next(record for record in door.ground.store.usage.last() if record["session"] == kept)
        assert (record["output"], record["status"], record["error"], record["key"]) == ("5", "200", "", "owner")
        assert int(record["input"]) > 0 and (record["first_ms"] != "") is streamed

    # refusals

    @pytest.mark.parametrize("path", [MESSAGES, COUNT, CHAT, "/v1/models"])
    @pytest.mark.parametrize("headers", [{}, {"x-api-key": "no"}, {"authorization": "Bearer no"}])
    def test_a_wrong_key(self, door: Door, path: str, headers: dict[str, str]) -> None:
        method = "GET" if path == "/v1/models" else "POST"
        answer = httpx.request(
            method, door.url + path, json=None if method == "GET" else ask("x"), headers=headers, timeout=30
        )
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
        assert (answer.json().get("type") == "error") == path.startswith(MESSAGES)

    def test_a_bearer_key_opens_too(self, door: Door) -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        assert httpx.post(door.url + COUNT, json=ask("x"), headers=headers, timeout=30).status_code == 200

    def test_an_overflow_reads_as_claude_code_understands_it(self, door: Door) -> None:
        answer = post(door, MESSAGES, ask("w " * 5000, stream=True))
        assert answer.status_code == 400
        assert answer.json()["error"] == {
            "type": "invalid_request_error",
            "message": f"prompt is too long: 5001 tokens > {WINDOW} maximum",
        }

    def test_an_overflow_in_openais_words(self, door: Door) -> None:
        answer = post(door, CHAT, ask("w " * 5000))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")

    @pytest.mark.parametrize(
        ("said", "anthropic", "kind", "openai"),
        [
            (400, 400, "invalid_request_error", 400),
            (422, 422, "invalid_request_error", 422),
            (503, 529, "overloaded_error", 503),
            (500, 500, "api_error", 500),
        ],
    )
    def test_the_models_errors_in_both_dialects(
        self, door: Door, said: int, anthropic: int, kind: str, openai: int
    ) -> None:
        answer = post(door, MESSAGES, ask(f"REFUSE[{said}]"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (anthropic, kind)
        assert f"refused with {said}" in answer.json()["error"]["message"]
        assert post(door, CHAT, ask(f"REFUSE[{said}]")).status_code == openai

    def test_a_model_that_dies_in_the_middle_is_never_silent(self, door: Door) -> None:
        answer = post(door, MESSAGES, ask("SAY[a b c d e f] DIE[5]", stream=True))
        if answer.status_code == 200:
            assert checked(answer)[-1].name == "error"
        else:
            assert (answer.status_code, answer.json()["error"]["type"]) == (529, "overloaded_error")

    def test_an_openai_stream_that_dies_in_the_middle(self, door: Door) -> None:
        answer = post(door, CHAT, ask("SAY[a b c d e f] DIE[5]", stream=True))
        if answer.status_code == 200:
            assert "error" in chunks(answer)[-1]
        else:
            assert answer.status_code == 503

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"nope",
            b"[]",
            b"{}",
            b'{"messages": 5}',
            b'{"model": 5, "messages": []}',
            b'{"messages": [], "max_tokens": "a"}',
            b'{"messages": [], "max_tokens": 0}',
        ],
    )
    @pytest.mark.parametrize("path", [MESSAGES, CHAT])
    def test_a_bad_body_is_the_clients_fault(self, door: Door, path: str, body: bytes) -> None:
        answer = post(door, path, body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]

    @pytest.mark.parametrize("path", [MESSAGES, COUNT])
    def test_a_conversation_that_we_should_remember_is_refused_as_sdks_understand_it(
        self, door: Door, path: str
    ) -> None:
        answer = post(door, path, ask("x", thread={"type": "create"}))
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        assert answer.json()["error"]["details"]["error_code"] == "thread_unsupported_request"

    def test_a_huge_body(self, door: Door) -> None:
        answer = post(door, MESSAGES, b"x" * (65 << 20))
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")

    @pytest.mark.parametrize(
        "path", ["/ui/", "/key/generate", "/config/yaml", "/model/info", "/v1/files", "/openapi.json"]
    )
    def test_nothing_else_is_reachable(self, door: Door, path: str) -> None:
        assert httpx.get(door.url + path, headers={"x-api-key": KEY}, timeout=30).status_code == 404
        assert post(door, path, {}).status_code == 404

    # routing

    def test_an_unknown_model_names_what_there_is(self, door: Door) -> None:
        answer = post(door, MESSAGES, ask("x", model="gpt-99"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
        assert ALIAS in answer.json()["error"]["message"] and "catalog" in answer.json()["error"]["message"]

    def test_nothing_runs(self, door: Door, served: Deployment) -> None:
        self._end(door.ground.store, served.id)
        until(lambda: self._status(door, ask("x")) != 200)
        for name in ("default", "claude-sonnet-4-5"):
            answer = post(door, MESSAGES, ask("x", model=name))
            assert (answer.status_code, answer.json()["error"]["type"]) == (529, "overloaded_error")
            assert "bouchet launch" in answer.json()["error"]["message"]
        assert post(door, CHAT, ask("x", model="default")).status_code == 503
        assert post(door, MESSAGES, ask("x")).status_code == 404

    def test_a_queued_model_says_why_and_how_long(self, door: Door) -> None:
        start = datetime.now(UTC) + timedelta(minutes=12)
        queued = deployment("later", "org/Later", Phase.QUEUED, 1, reason="all GPUs are in use (Resources)")
        assert queued.job is not None
        job = queued.job.model_copy(update={"start_estimate": start})
        door.ground.store.create(queued.model_copy(update={"jobs": (job,)}))
        until(lambda: post(door, COUNT, ask("x", model="later")).status_code == 529)
        answer = post(door, MESSAGES, ask("x", model="later", stream=True))
        message = answer.json()["error"]["message"]
        assert answer.json()["error"]["type"] == "overloaded_error"
        assert int(answer.headers["retry-after"]) > 0
        assert "later is queued: all GPUs are in use (Resources)" in message and "12 min" in message
        assert post(door, CHAT, ask("x", model="later")).status_code == 503

    def test_a_tier_reaches_the_deployment_launched_for_it(self, door: Door) -> None:
        request = LaunchRequest(model="org/Haiku", serve_as=("haiku",))
        door.ground.store.create(deployment("small", "org/Haiku", Phase.STARTING, 2, request=request))
        until(lambda: post(door, COUNT, ask("x", model="claude-3-5-haiku-20241022")).status_code == 529)
        assert "small is starting" in post(door, MESSAGES, ask("x", model="haiku")).json()["error"]["message"]
        assert post(door, MESSAGES, ask("x", model="claude-opus-4-8")).status_code == 200

    def test_a_slot_that_nobody_listens_behind(self, door: Door) -> None:
        door.ground.store.create(deployment("gone", "org/Gone", Phase.READY, 3))
        until(lambda: post(door, COUNT, ask("x", model="gone")).status_code == 529)
        answer = post(door, MESSAGES, ask("x", model="gone"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (529, "overloaded_error")
        assert "cannot be reached" in answer.json()["error"]["message"]
        assert post(door, CHAT, ask("x", model="gone")).status_code == 503

    def test_the_model_list_in_both_shapes(self, door: Door) -> None:
        sent = {"x-api-key": KEY}
        openai = httpx.get(f"{door.url}/v1/models", headers=sent, timeout=30).json()
        assert [(m["id"], m["root"], m["max_model_len"]) for m in openai["data"]] == [(ALIAS, MODEL, WINDOW)]
        anthropic = httpx.get(
            f"{door.url}/v1/models", headers={**sent, "anthropic-version": "2023-06-01"}, timeout=30
        ).json()
        assert [(m["type"], m["id"]) for m in anthropic["data"]] == [("model", ALIAS)]
        assert httpx.get(f"{door.url}/v1/models/{MODEL}", headers=sent, timeout=30).json()["id"] == ALIAS

    def test_liveliness_is_open(self, door: Door) -> None:
        assert httpx.get(f"{door.url}/health/liveliness", timeout=30).status_code == 200
