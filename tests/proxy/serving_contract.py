"""What a client sees when a model has replicas, is not ready or out of reach, or is asked in OpenAI's newer dialects.

Runs over every way, after the model of contract.py. Slots 1 and 2 get look-alikes of their own as the tests need them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from bouchet_core.deployments import Deployment, LaunchRequest, Phase, Traits
from bouchet_proxy.streams.sse import events
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import free_port
from tests.fakes.relay import PortRelay
from tests.proxy.contract import CHAT, COUNT, MESSAGES, ask, chunks, post, text_of, until
from tests.proxy.running import ALIAS, HOLD_S, KEY, MODEL, WINDOW, Door, FakeModel, deployment, start_fake
from tests.proxy.stream_checker import check_stream

RESPONSES, EMBEDDINGS = "/v1/responses", "/v1/embeddings"


@contextmanager
def model_behind(door: Door, slot: int, *names: str, embeds: bool = False) -> Iterator[FakeModel]:
    """A look-alike behind that slot."""
    fake = start_fake(door.ground.slot_base_port + slot, names=names, embeds=embeds)
    try:
        yield fake
    finally:
        fake.stop()


@contextmanager
def far_model(name: str) -> Iterator[FakeModel]:
    """A look-alike that is behind no slot yet."""
    fake = start_fake(free_port(), names=(name,))
    try:
        yield fake
    finally:
        fake.stop()


def later(seconds: float, action: Any, *args: Any) -> threading.Timer:
    """Does it in a while."""
    timer = threading.Timer(seconds, action, args)
    timer.start()
    return timer


def held(door: Door, path: str, body: dict[str, Any], then: Callable[[], None]) -> httpx.Response:
    """The whole stream; `then` is done when its first bytes have come, for then the request waits at the proxy."""
    with httpx.stream("POST", door.url + path, json=body, headers={"x-api-key": KEY}, timeout=30) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_bytes()
        first = next(pieces)
        then()
        whole = first + b"".join(pieces)
    check_stream(path, whole)
    return httpx.Response(200, content=whole)


def move(door: Door, identity: str, phase: Phase) -> None:
    """The deployment moves."""
    door.ground.store.update(identity, lambda d: d.moved(phase, datetime.now(UTC)))


WORDS = "role content type text tool_use tool_result tool_use_id id name input source thinking cache_control system"
FIELDS = "messages system tools tool_choice thinking output_config metadata stop_sequences stream input instructions"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS.split()), inner, max_size=4),
    max_leaves=10,
)
BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "image", "thinking", "server_tool_use", "document"])},
    optional=dict.fromkeys(["text", "content", "input", "source", "thinking", "cache_control"], JSON),
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool"])},
    optional={"content": st.none() | st.text(max_size=9) | st.lists(BLOCKS, max_size=3)},
)


class ServingContract:
    """Mixed into Contract."""

    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        path=st.sampled_from([MESSAGES, COUNT, CHAT, RESPONSES]),
        turns=st.lists(TURNS, max_size=4),
        rest=st.dictionaries(st.sampled_from(FIELDS.split()), JSON, max_size=4),
    )
    def test_no_body_makes_the_proxy_fail(self, door: Door, path: str, turns: list[Any], rest: dict[str, Any]) -> None:
        body = {"model": ALIAS, "max_tokens": 9, "messages": turns, "input": turns, **rest}
        answer = post(door, path, body)
        assert "the proxy failed" not in answer.text, answer.text
        assert answer.json()["error"]["message"] if answer.status_code >= 400 else answer.content

    # replicas

    def test_a_conversation_stays_with_its_replica(self, door: Door, served: Deployment) -> None:
        second = deployment("second", MODEL, slot=1)
        with model_behind(door, 1, "second") as other:
            door.ground.store.create(second)
            until(lambda: post(door, COUNT, ask("x", model="second")).status_code == 200)
            fakes = (door.ground.fake, other)
            homes = [{self._answerer(door, fakes, f"SAY[hi {n}]") for _ in range(2)} for n in range(8)]
            assert all(len(home) == 1 for home in homes)
            assert {next(iter(home)) for home in homes} == {0, 1}
            assert self._answerer(door, fakes, "SAY[by name]", model="second") == 1
            move(door, second.id, Phase.ENDED)
            until(lambda: post(door, COUNT, ask("x", model="second")).status_code == 404)
            assert {self._answerer(door, fakes, f"SAY[hi {n}]") for n in range(4)} == {0}

    def _answerer(self, door: Door, fakes: tuple[FakeModel, FakeModel], text: str, model: str = MODEL) -> int:
        before = [fake.count() for fake in fakes]
        assert post(door, MESSAGES, ask(text, model=model)).status_code == 200
        grown = [fake.count() - count for fake, count in zip(fakes, before, strict=True)]
        assert sorted(grown) == [0, 1]
        return grown.index(1)

    def test_a_replica_that_cannot_be_reached_is_passed_over(self, door: Door, served: Deployment) -> None:
        door.ground.store.create(deployment("dead", MODEL, slot=2))
        until(lambda: post(door, COUNT, ask("x", model="dead")).status_code == 529)
        for n in range(6):
            assert post(door, MESSAGES, ask(f"SAY[{n}]", model=MODEL)).status_code == 200

    # held requests

    def test_a_stream_is_held_until_its_model_is_ready(self, door: Door) -> None:
        made = deployment("soon", "org/Soon", Phase.STARTING, 1)
        door.ground.store.create(made)
        until(lambda: post(door, COUNT, ask("x", model="soon")).status_code == 529)
        with model_behind(door, 1, "soon"):
            body = ask("SAY[at last]", model="soon", stream=True)
            answer = held(door, MESSAGES, body, lambda: move(door, made.id, Phase.READY))
        found = events([answer.content])
        assert found[0].name == "ping" and text_of(found) == "at last"
        assert found[-1].name == "message_stop"

    def test_an_openai_stream_is_held_with_comments(self, door: Door) -> None:
        made = deployment("soon", "org/Soon", Phase.STARTING, 1)
        door.ground.store.create(made)
        until(lambda: post(door, COUNT, ask("x", model="soon")).status_code == 529)
        with model_behind(door, 1, "soon"):
            body = ask("SAY[at last]", model="soon", stream=True)
            answer = held(door, CHAT, body, lambda: move(door, made.id, Phase.READY))
        assert answer.content.startswith(b": ")
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks(answer)) == "at last"

    @pytest.mark.parametrize("path", [MESSAGES, CHAT, RESPONSES])
    def test_a_hold_ends_with_the_dialects_words(self, door: Door, path: str) -> None:
        made = deployment("never", "org/Never", Phase.STARTING, 1)
        door.ground.store.create(made)
        until(lambda: post(door, COUNT, ask("x", model="never")).status_code == 529)
        body = {**ask("x", model="never", stream=True), "input": "x"}
        began = time.monotonic()
        answer = post(door, path, body)
        assert answer.status_code == 200 and time.monotonic() - began >= HOLD_S
        last = [event for event in events([answer.content]) if event.data and event.data != b"[DONE]"][-1].json()
        told = last if path == RESPONSES else last["error"]
        assert "never is starting" in told["message"]
        assert last.get("type") == {MESSAGES: "error", RESPONSES: "error"}.get(path)
        if path == MESSAGES:
            assert told["type"] == "overloaded_error"

    def test_a_hold_ends_when_the_model_will_not_come(self, door: Door) -> None:
        made = deployment("gone", "org/Gone", Phase.QUEUED, 1)
        door.ground.store.create(made)
        until(lambda: post(door, COUNT, ask("x", model="gone")).status_code == 529)
        body = ask("x", model="gone", stream=True)
        answer = held(door, MESSAGES, body, lambda: move(door, made.id, Phase.ENDED))
        assert events([answer.content])[-1].json()["error"]["type"] == "not_found_error"

    def test_a_whole_answer_is_not_held(self, door: Door) -> None:
        door.ground.store.create(deployment("soon", "org/Soon", Phase.STARTING, 1))
        until(lambda: post(door, COUNT, ask("x", model="soon")).status_code == 529)
        answer = post(door, MESSAGES, ask("x", model="soon"))
        assert answer.status_code == 529 and int(answer.headers["retry-after"]) > 0

    def test_a_stream_waits_for_a_lost_tunnel(self, door: Door) -> None:
        door.ground.store.create(deployment("away", "org/Away", Phase.READY, 3))
        until(lambda: post(door, COUNT, ask("x", model="away")).status_code == 529)
        with ExitStack() as afterwards, far_model("away") as fake:
            tunnel = PortRelay(door.ground.slot_base_port + 3, fake.port)
            timer = later(0.8, afterwards.enter_context, tunnel)
            answer = post(door, MESSAGES, ask("SAY[again]", model="away", stream=True))
            timer.join()
        assert text_of(events([answer.content])) == "again"

    @pytest.mark.parametrize("path", [MESSAGES, CHAT])
    def test_a_thought_that_begins_in_the_prompt_is_taken_off(self, door: Door, path: str) -> None:
        traits = Traits(thinking="always", tool_parser="hermes")
        door.ground.store.create(deployment("thinker", "org/Thinker", slot=1, traits=traits))
        with model_behind(door, 1, "thinker"):
            until(lambda: post(door, COUNT, ask("x", model="thinker")).status_code == 200)
            text = "SAY[hm, let me see </think>the answer]"
            whole = post(door, path, ask(text, model="thinker")).json()
            streamed = post(door, path, ask(text, model="thinker", stream=True))
        if path == MESSAGES:
            assert (whole["content"][0]["text"], text_of(events([streamed.content]))) == ("the answer", "the answer")
        else:
            assert whole["choices"][0]["message"]["content"] == "the answer"
            told = [c["choices"][0]["delta"].get("content") or "" for c in chunks(streamed)]
            assert "".join(told) == "the answer"

    # overflows

    @pytest.mark.parametrize("words", [WINDOW + 400, 3 * WINDOW])
    def test_an_overflow_says_how_long_the_prompt_is(self, door: Door, words: int) -> None:
        turns = [{"role": "user", "content": "w " * words}]
        body = ask("", messages=turns, system="be kind")
        answer = post(door, MESSAGES, body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == f"prompt is too long: {words + 3} tokens > {WINDOW} maximum"
        assert post(door, COUNT, body).json() == {"input_tokens": words + 3}
        message = post(door, CHAT, ask("", messages=turns)).json()["error"]["message"]
        assert f"maximum context length is {WINDOW} tokens" in message and f"resulted in {words + 1} tokens" in message

    # the newer dialects

    @pytest.mark.parametrize("given", ["SAY[hello you]", [{"role": "user", "content": "SAY[hello you]"}]])
    def test_a_response(self, door: Door, given: Any) -> None:
        body = {"model": "default", "input": given, "max_output_tokens": 64000, "made_up": 1}
        answer = post(door, RESPONSES, body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["output"][0]["content"][0]["text"] == "hello you"
        assert answer.json()["model"] == "default"
        seen = door.ground.fake.last_body()
        assert seen["model"] == ALIAS and seen["max_output_tokens"] == WINDOW and "made_up" not in seen

    def test_a_streamed_response_with_a_tool(self, door: Door) -> None:
        tools = [{"type": "function", "name": "shell", "parameters": {"type": "object"}}, {"type": "web_search"}]
        body = {"model": MODEL, "input": 'SAY[one two] CALL[shell {"cmd": "ls"}]', "tools": tools, "stream": True}
        answer = post(door, RESPONSES, body)
        found = [event.json() for event in events([answer.content])]
        assert [event["sequence_number"] for event in found] == list(range(len(found)))
        assert "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta") == "one two"
        assert found[0]["response"]["model"] == found[-1]["response"]["model"] == MODEL
        call = found[-1]["response"]["output"][-1]
        assert (call["name"], json.loads(call["arguments"])) == ("shell", {"cmd": "ls"})
        assert [tool["type"] for tool in door.ground.fake.last_body()["tools"]] == ["function"]

    def test_a_response_that_dies_in_the_middle(self, door: Door) -> None:
        answer = post(door, RESPONSES, {"model": ALIAS, "input": "SAY[a b c d e] DIE[6]", "stream": True})
        failed = events([answer.content])[-1].json()
        assert failed["type"] == "response.failed" and failed["response"]["status"] == "failed"
        assert "broke before its answer was complete" in failed["response"]["error"]["message"]

    def test_a_response_that_would_go_on_with_another(self, door: Door) -> None:
        answer = post(door, RESPONSES, {"model": ALIAS, "input": "x", "previous_response_id": "resp_1"})
        assert answer.status_code == 400 and "whole conversation" in answer.json()["error"]["message"]

    def test_an_overflowing_response(self, door: Door) -> None:
        answer = post(door, RESPONSES, {"model": ALIAS, "input": "w " * 5000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")

    def test_embeddings(self, door: Door) -> None:
        answer = post(door, EMBEDDINGS, {"model": ALIAS, "input": ["a", "b"]})
        assert answer.status_code == 400
        assert "makes no embeddings" in answer.json()["error"]["message"]
        door.ground.store.create(deployment("vectors", "org/Vectors", Phase.READY, 1))
        with model_behind(door, 1, "vectors", embeds=True):
            until(lambda: post(door, COUNT, ask("x", model="vectors")).status_code == 200)
            answer = post(door, EMBEDDINGS, {"model": "org/vectors", "input": ["a", "b"]})
        assert answer.status_code == 200, answer.text
        assert [line["index"] for line in answer.json()["data"]] == [0, 1]
        assert answer.json()["model"] == "org/vectors"

    def test_tiers_reach_replicas_too(self, door: Door, served: Deployment) -> None:
        request = LaunchRequest(model=MODEL, serve_as=("haiku",))
        second = deployment("second", MODEL, slot=1, request=request)
        with model_behind(door, 1, "second") as other:
            door.ground.store.create(second)
            until(lambda: post(door, COUNT, ask("x", model="second")).status_code == 200)
            before = other.count()
            for n in range(8):
                answer = post(door, MESSAGES, ask(f"SAY[{n}]", model="claude-haiku-4-5"), **{"x-session-id": f"s{n}"})
                assert answer.status_code == 200
            assert 0 < other.count() - before < 8

    def test_a_held_client_may_leave(self, door: Door) -> None:
        door.ground.store.create(deployment("soon", "org/Soon", Phase.STARTING, 1))
        until(lambda: post(door, COUNT, ask("x", model="soon")).status_code == 529)
        headers, body = {"x-api-key": KEY}, ask("x", model="soon", stream=True)
        with httpx.stream("POST", door.url + MESSAGES, json=body, headers=headers, timeout=30) as held:
            assert held.status_code == 200
            assert "bouchet_requests_held 1" in self._metrics(door)
        until(lambda: "bouchet_requests_held 0" in self._metrics(door))

    def _metrics(self, door: Door) -> str:
        return httpx.get(f"{door.url}/metrics", headers={"x-api-key": KEY}, timeout=30).text
