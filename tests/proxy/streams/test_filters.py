"""Streams and whole responses as clients get them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.endpoints import Endpoint
from bouchet_proxy.routing.table import Route
from bouchet_proxy.streams.filters import AnthropicStream, CompletionStream, OpenAIStream, StreamFilter
from bouchet_proxy.streams.sse import EventSplitter, parse_stream, render
from bouchet_proxy.upstream_request import filter_response
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.vllm.payloads import anthropic_events, chat_events, completion_events
from tests.fakes.vllm.script import Script
from tests.proxy.stream_checker import check_stream

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
PLAIN = Route("d", "tiny", "org/Tiny", 0, "job", 4096, Traits())
THINKING = Route("d", "tiny", "org/Tiny", 0, "job", 4096, Traits(thinking="off"))
MODEL_NAME = 'claude-"x"-é'
SCRIPTS = [
    "SAY[one two <think> three]",
    "SAY[x] THINK[a b </thin c]",
    "SAY[] THINK[only]",
    'SAY[a] CALL[f {"model":"<think>b</think>","k":"\\"model\\":\\"x\\""}] THINK[t]',
    'CALL[f {"a": 1}]',
    "SAY[ ]",
    "SAY[<thi]",
    "SAY[é漢 😀]",
]


def split_bytes(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(borders)]


def anthropic_stream(script: str) -> bytes:
    return "".join(anthropic_events({"model": "tiny"}, Script(script), 7)).encode()


def chat_stream(script: str) -> bytes:
    return "".join(chat_events({"model": "tiny"}, Script(script), 7)).encode()


def run(stream: StreamFilter, pieces: list[bytes]) -> bytes:
    return b"".join([stream.feed(piece) for piece in pieces]) + stream.finish()


def filter_anthropic(route: Route, *pieces: bytes) -> bytes:
    return run(AnthropicStream(route, MODEL_NAME), [*pieces])


def filter_chat(route: Route, *pieces: bytes) -> bytes:
    return run(OpenAIStream(route, MODEL_NAME), [*pieces])


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("route", [PLAIN, THINKING])
@given(cuts=st.lists(st.integers(0, 10**6), max_size=40))
def test_feed_in_any_pieces_gives_the_same_stream(route: Route, script: str, cuts: list[int]) -> None:
    data = anthropic_stream(script)
    assert filter_anthropic(route, *split_bytes(data, cuts)) == filter_anthropic(route, data)
    data = chat_stream(script)
    assert filter_chat(route, *split_bytes(data, cuts)) == filter_chat(route, data)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("route", [PLAIN, THINKING])
def test_anthropic_stream_stays_legal_and_loses_think_blocks_only(route: Route, script: str) -> None:
    expected = Script(script)
    data = filter_anthropic(route, anthropic_stream(script))
    events: list[dict[str, Any]] = [event.json() for event in check_stream(MESSAGES, data)]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(d.get("text", "") for d in deltas) == (expected.text if route is PLAIN else expected.answer)
    if expected.tools:
        assert json.loads("".join(d.get("partial_json", "") for d in deltas)) == expected.tools[0][1]
    assert events[0]["message"]["model"] == MODEL_NAME


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("route", [PLAIN, THINKING])
def test_chat_stream_loses_think_blocks_only(route: Route, script: str) -> None:
    expected = Script(script)
    *events, last = check_stream(CHAT, filter_chat(route, chat_stream(script)))
    assert last.data == b"[DONE]"
    chunks = [event.json() for event in events]
    assert {chunk["model"] for chunk in chunks} == {MODEL_NAME}
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == (expected.text if route is PLAIN else expected.answer)


@given(st.sampled_from(SCRIPTS), st.integers(0, 10**6))
def test_stream_interrupted_anywhere_ends_with_an_error(script: str, at: int) -> None:
    data = anthropic_stream(script)
    events = check_stream(MESSAGES, filter_anthropic(PLAIN, data[: at % (len(data) - 1)]))
    assert events[-1].name == "error"
    assert "before its response was complete" in events[-1].json()["error"]["message"]
    data = chat_stream(script)
    events = check_stream(CHAT, filter_chat(PLAIN, data[: at % (len(data) - 3)]))
    assert events[-1].data == b"[DONE]" and events[-2].json()["error"]["code"] == "stream_interrupted"


@pytest.mark.parametrize(
    "raw",
    [
        render("error", {"type": "error", "error": {"type": "internal_error", "message": "boom"}}),
        render("", {"error": {"message": "litellm.APIError: boom", "code": 500}}),
        render("error", {"error": {"message": "boom"}}),
    ],
)
def test_error_in_a_stream_is_translated_and_ends_it(raw: bytes) -> None:
    head = anthropic_stream("SAY[a]")[:400].rpartition(b"\n\n")[0] + b"\n\n"
    events = parse_stream([filter_anthropic(PLAIN, head, raw, raw)])
    assert events[-1].json() == {"type": "error", "error": {"type": "overloaded_error", "message": "boom"}}
    assert [event.name for event in events].count("error") == 1


def test_pings_and_comments_pass() -> None:
    data = b": hi\n\n" + b'event: ping\ndata: {"type": "ping"}\n\n' + anthropic_stream("SAY[a]")
    assert filter_anthropic(PLAIN, data).startswith(b": hi\n\nevent: ping")


def spaced(stream: bytes, data_field: str) -> bytes:
    """Write a stream as a server in Python does: JSON with spaces."""
    written = []
    for event in parse_stream([stream]):
        text = event.data.decode() if event.data == b"[DONE]" else json.dumps(event.json(), ensure_ascii=False)
        written.append((f"event: {event.name}\n" if event.name else "") + f"{data_field}{text}\n\n")
    return "".join(written).encode()


def decoded(stream: bytes) -> list[tuple[str, Any]]:
    """Return the name of each event with its data."""
    return [(one.name, one.data if one.data == b"[DONE]" else one.json()) for one in parse_stream([stream])]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("route", [PLAIN, THINKING])
@pytest.mark.parametrize("data_field", ["data: ", "data:"])
def test_streams_of_attached_servers_may_have_spaces(route: Route, script: str, data_field: str) -> None:
    attached = replace(route, attached=True)
    for make, stream in ((AnthropicStream, anthropic_stream(script)), (OpenAIStream, chat_stream(script))):
        wanted, found = make(route, MODEL_NAME), make(attached, MODEL_NAME)
        plain, other = run(wanted, [stream]), run(found, [spaced(stream, data_field)])
        assert decoded(other) == decoded(plain)
        assert found.tokens() == wanted.tokens() and found.error is None


@pytest.mark.parametrize(
    "raw",
    [
        b'data: {"error": {"message": "boom"}}\n\n',
        b'data:{ "error":{"message":"boom"}}\n\n',
        b'event: error\ndata: {"message": "boom"}\n\n',
    ],
)
def test_error_of_an_attached_server_ends_its_stream(raw: bytes) -> None:
    stream = OpenAIStream(replace(PLAIN, attached=True), MODEL_NAME)
    assert b"boom" in run(stream, [raw]) and stream.error is not None


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("end", ["no [DONE]", "no blank line"])
def test_stream_of_an_attached_server_may_end_in_other_ways(script: str, end: str) -> None:
    whole = chat_stream(script)
    cut = whole.replace(b"data: [DONE]\n\n", b"") if end == "no [DONE]" else whole.rstrip(b"\n")
    stream = OpenAIStream(replace(PLAIN, attached=True), MODEL_NAME)
    assert decoded(run(stream, [cut])) == decoded(run(OpenAIStream(PLAIN, MODEL_NAME), [whole]))
    assert stream.error is None
    # of a vLLM, and in the middle of an answer, it is a lost connection
    ours, middle = OpenAIStream(PLAIN, MODEL_NAME), OpenAIStream(replace(PLAIN, attached=True), MODEL_NAME)
    run(ours, [whole.replace(b"data: [DONE]\n\n", b"")])
    run(middle, [whole[: whole.index(b'"finish_reason":"')]])
    assert ours.error is not None and middle.error is not None


@pytest.mark.parametrize("route", [PLAIN, THINKING])
def test_chunks_of_a_completion_pass_as_they_are(route: Route) -> None:
    body = {"model": "tiny"}
    data = "".join(completion_events(body, Script("SAY[a b] THINK[not hidden]"))).encode()
    found = [one.json() for one in parse_stream([run(CompletionStream(route, "tiny"), [data])]) if one.data[:1] == b"{"]
    assert found == [one.json() for one in parse_stream([data]) if one.data[:1] == b"{"]
    assert "".join(one["choices"][0]["text"] for one in found) == "<think>not hidden</think>a b"


def test_usage_of_an_attached_server_is_hidden_and_counted() -> None:
    stream = OpenAIStream(replace(PLAIN, attached=True), MODEL_NAME, hide_usage=True)
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}\n\n'
    sent = run(stream, [chat_stream("SAY[a]").replace(b"data: [DONE]", usage + b"data: [DONE]")])
    assert b"prompt_tokens" not in sent and (stream.tokens().input, stream.tokens().output) == (5, 7)


@given(
    st.lists(st.sampled_from([b"data: a\n\n", b"event: x\ndata: b\n\n", b"data: c\r\n\r\n"])),
    st.lists(st.integers(0, 99)),
)
def test_splitter_in_any_pieces_returns_the_same_events(parts: list[bytes], cuts: list[int]) -> None:
    splitter = EventSplitter()
    events = [raw for piece in split_bytes(b"".join(parts), cuts) for raw in splitter.feed(piece)]
    assert events == [part.replace(b"\r\n", b"\n") for part in parts]
    assert splitter.rest() == b""


def test_filter_response_renames_the_model_and_strips_think_blocks() -> None:
    body = {"model": "tiny", "content": [{"type": "text", "text": "<think>a</think>b"}]}
    response = json.loads(filter_response(Endpoint.MESSAGES, json.dumps(body).encode(), THINKING, MODEL_NAME)[0])
    assert response == {"model": MODEL_NAME, "content": [{"type": "text", "text": "b"}]}


@pytest.mark.parametrize("body", [b"", b"nope", b"[]", b"5"])
def test_filter_response_of_anything_but_an_object_is_unchanged(body: bytes) -> None:
    assert filter_response(Endpoint.CHAT, body, THINKING, MODEL_NAME)[0] == body
