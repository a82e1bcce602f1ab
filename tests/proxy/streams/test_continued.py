"""Filters for the rest of an answer: where a text goes on, what the seam drops, and what ends in an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.continuation import PartialAnswer
from bouchet_proxy.dialects.tokens import TokenCounts
from bouchet_proxy.routing.table import Route
from bouchet_proxy.streams.continued import ContinuedChat, ContinuedMessage, Seam
from bouchet_proxy.streams.filters import AnthropicStream, OpenAIStream, StreamFilter
from bouchet_proxy.streams.responses import ResponsesStream
from bouchet_proxy.streams.sse import parse_stream

from tests.proxy.stream_checker import check_stream

ROUTE = Route("id", "coder", "org/Coder", 0, "job-2", 4096, Traits())
THINKS = Route("id", "coder", "org/Coder", 0, "job-2", 4096, Traits(thinking="on"))
START: dict[str, Any] = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "content": [],
    "model": "coder",
    "stop_reason": None,
}


def event(name: str, **fields: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields}, separators=(',', ':'))}\n\n".encode()


def text_delta(text: str, index: int = 0) -> bytes:
    return event("content_block_delta", index=index, delta={"type": "text_delta", "text": text})


def begin(*texts: str, kind: str = "text") -> bytes:
    usage = {"input_tokens": 30, "output_tokens": 0}
    head = event("message_start", message={**START, "usage": usage})
    head += event("content_block_start", index=0, content_block={"type": kind, kind: ""})
    return head + b"".join(map(text_delta, texts))


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {
        "id": "c-2",
        "object": "chat.completion.chunk",
        "created": 2,
        "model": "coder",
        "choices": [choice],
        **fields,
    }
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode()


def usage(prompt: int, made: int) -> bytes:
    return chunk({}, choices=[], usage={"prompt_tokens": prompt, "completion_tokens": made})


DONE = b"data: [DONE]\n\n"


def cut(*texts: str, route: Route = ROUTE) -> tuple[bytes, PartialAnswer | None]:
    stream = AnthropicStream(route, "mine")
    stream.withholds = True
    return stream.feed(begin(*texts)), stream.partial()


def test_partial_message_has_its_text_and_place() -> None:
    _, partial = cut("one ", "two ")
    assert partial == PartialAnswer("one two ", "org/Coder", TokenCounts(30, 0, 2), 0, True)
    assert (partial.sent, partial.repeated) == ("one two", " ")


def test_long_text_is_kept_folded() -> None:
    texts = [f"{n} " for n in range(5000)]
    _, partial = cut(*texts)
    assert partial is not None and partial.text == "".join(texts) and partial.tokens.output == 5000


@pytest.mark.parametrize("kind", ["tool_use", "thinking"])
def test_message_with_another_block_has_no_partial_answer(kind: str) -> None:
    stream = AnthropicStream(ROUTE, "mine")
    stream.withholds = True
    stream.feed(begin("text"))
    assert stream.partial() is not None
    stream.feed(event("content_block_stop", index=0))
    stream.feed(event("content_block_start", index=1, content_block={"type": kind, "id": "t", "name": "n"}))
    assert stream.partial() is None


def test_open_think_block_has_no_partial_answer() -> None:
    assert cut("<think>well", route=THINKS)[1] is None
    _, partial = cut("<think>well</think>", "the answer", route=THINKS)
    assert partial is not None and partial.text == "the answer"


def test_error_of_the_server_is_withheld_and_rendered_at_the_end() -> None:
    stream = AnthropicStream(ROUTE, "mine")
    stream.withholds = True
    error = event("error", error={"type": "InternalServerError", "message": "EngineDeadError"})
    assert stream.feed(begin("one")) and stream.feed(error) == b""
    assert stream.partial() is not None and stream.error is not None
    assert b"event: error" in stream.finish()
    passing = AnthropicStream(ROUTE, "mine")
    assert b"event: error" in passing.feed(begin("one") + error) and passing.finish() == b""


def test_aborted_answer_is_no_whole_one() -> None:
    """Of a job that is being ended, vLLM finishes its answers with the reason `abort`."""
    stream = AnthropicStream(ROUTE, "mine")
    stream.withholds = True
    end = event("message_delta", delta={"stop_reason": None, "stop_sequence": None}, usage={"output_tokens": 1})
    stream.feed(begin("one") + event("content_block_stop", index=0) + end + event("message_stop"))
    partial = stream.partial()
    assert stream.error is not None and partial is not None and not partial.is_open
    chat = OpenAIStream(ROUTE, "mine")
    chat.withholds = True
    chat.feed(chunk({"role": "assistant", "content": ""}) + chunk({"content": "one"}) + chunk({}, "abort") + DONE)
    assert chat.error is not None and chat.partial() is not None


def rest_of(before: bytes, partial: PartialAnswer | None, *chunks: bytes) -> list[dict[str, Any]]:
    assert partial is not None
    stream = ContinuedMessage(ROUTE, "mine", partial)
    data = before + b"".join(stream.feed(piece) for piece in chunks) + stream.finish()
    return [found.json() for found in check_stream("/v1/messages", data)]


def texts_of(events: list[dict[str, Any]]) -> list[str]:
    return [e["delta"]["text"] for e in events if e["type"] == "content_block_delta" and "text" in e["delta"]]


def test_text_goes_on_in_the_open_block_without_its_space_twice() -> None:
    role = chunk({"role": "assistant", "content": ""})
    parts = (role, chunk({"content": " "}), chunk({"content": " three"}), chunk({}, "stop"), usage(34, 2), DONE)
    events = rest_of(*cut("one ", "two "), *parts)
    assert texts_of(events) == ["one ", "two ", " three"]
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"] == {"input_tokens": 30, "output_tokens": 4}


def test_text_behind_a_closed_block_has_a_block_of_its_own() -> None:
    before, partial = cut("one")
    assert partial is not None
    closed = PartialAnswer(partial.text, partial.model, partial.tokens, 0, is_open=False)
    data = before + event("content_block_stop", index=0)
    events = rest_of(data, closed, chunk({"content": " two"}), chunk({}, "length"), DONE)
    assert [e["index"] for e in events if e["type"] == "content_block_start"] == [0, 1]
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"


def test_tool_calls_follow_the_text() -> None:
    def call(number: int, arguments: str, **more: Any) -> bytes:
        function = {"arguments": arguments, **({"name": "bash"} if more else {})}
        return chunk({"tool_calls": [{"index": number, "function": function, **more}]})

    parts = (call(0, "", id="a", type="function"), call(0, '{"x":'), call(0, "1}"), call(1, "{}", id="b", type="f"))
    events = rest_of(*cut("one"), *parts, chunk({}, "tool_calls"), DONE)
    starts = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
    assert starts == ["text", "tool_use", "tool_use"] and events[-2]["delta"]["stop_reason"] == "tool_use"


def test_stop_sequence_of_the_client_is_named() -> None:
    stopped = chunk({}, choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "###"}])
    events = rest_of(*cut("one"), chunk({"content": " two"}), stopped, DONE)
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "###"}


@pytest.mark.parametrize(
    "parts",
    [(chunk({"reasoning": "hm"}),), (chunk({"content": " two"}),), (b'data: {"error":{"message":"dead"}}\n\n',)],
)
def test_thinking_an_error_and_a_second_end_are_errors(parts: tuple[bytes, ...]) -> None:
    assert rest_of(*cut("one"), *parts)[-1]["type"] == "error"


def test_answer_can_be_cut_again_until_a_tool_is_called() -> None:
    before, partial = cut("one")
    assert before and partial is not None
    stream = ContinuedMessage(ROUTE, "mine", partial)
    stream.feed(chunk({"content": " two"}))
    again = stream.partial()
    assert again is not None and (again.text, again.tokens.output) == ("one two", 2)
    stream.feed(chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "bash", "arguments": ""}}]}))
    assert stream.partial() is None


def test_chat_keeps_id_time_and_counts_of_its_beginning() -> None:
    first = OpenAIStream(ROUTE, "mine")
    first.withholds = True
    start = chunk({"role": "assistant", "content": ""}, id="c-1", created=1)
    before = first.feed(start + chunk({"content": "one "}, id="c-1", created=1))
    partial = first.partial()
    assert partial is not None and partial.head == {"id": "c-1", "created": 1}
    stream = ContinuedChat(ROUTE, "mine", partial)
    parts = (chunk({"role": "assistant", "content": ""}), chunk({"content": " two"}), chunk({}, "stop"), usage(9, 1))
    data = before + b"".join(map(stream.feed, parts)) + stream.feed(DONE)
    found = [one.json() for one in check_stream("/v1/chat/completions", data) if one.data != b"[DONE]"]
    assert {one["id"] for one in found} == {"c-1"} and {one["created"] for one in found} == {1}
    assert "".join(c["delta"].get("content") or "" for one in found for c in one["choices"]) == "one two"
    assert found[-1]["usage"] == {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}


WAITING = [b": ping\n\n", b":\n\n", b": keep-alive 1\n\n: keep-alive 2\n\n", b"retry: 3000\n\n", b"id: 7\n\n"]
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


@pytest.mark.parametrize("waiting", [*WAITING, PING])
def test_what_comes_while_a_server_waits_is_no_beginning_of_a_message(waiting: bytes) -> None:
    stream = AnthropicStream(ROUTE, "mine")
    stream.withholds = True
    stream.feed(waiting)
    assert not stream.has_begun and not stream.has_content and stream.partial() is None
    stream.feed(begin("one ", "two ") + waiting * 3)
    partial = stream.partial()
    assert partial is not None and (partial.text, partial.tokens) == ("one two ", TokenCounts(30, 0, 2))
    assert stream.tokens() == TokenCounts(30, 0, 2)


@pytest.mark.parametrize("waiting", WAITING)
def test_what_comes_while_a_server_waits_is_no_beginning_of_a_chat(waiting: bytes) -> None:
    stream = OpenAIStream(ROUTE, "mine")
    stream.withholds = True
    stream.feed(waiting * 2)
    assert not stream.has_begun and not stream.has_content and stream.partial() is None
    assert stream.tokens() == TokenCounts()
    stream.feed(waiting + chunk({"content": "one "}) + waiting + chunk({"content": "two "}) + waiting)
    partial = stream.partial()
    assert partial is not None and (partial.text, partial.tokens.output) == ("one two ", 2)


@pytest.mark.parametrize("waiting", WAITING)
def test_what_comes_while_a_server_waits_is_no_token_of_a_continued_answer(waiting: bytes) -> None:
    _, partial = cut("one ", "two ")
    assert partial is not None
    streams: list[StreamFilter] = [ContinuedMessage(ROUTE, "mine", partial), ContinuedChat(ROUTE, "mine", partial)]
    for stream in streams:
        stream.withholds = True
        stream.feed(waiting * 3)
        assert stream.tokens() == TokenCounts(30, 0, 2)
        stream.feed(chunk({"content": "three"}) + waiting)
        again = stream.partial()
        assert again is not None and (again.text, again.tokens.output) == ("one two three", 3)
        assert stream.tokens().output == 3


@pytest.mark.parametrize("waiting", WAITING)
def test_what_comes_while_a_server_waits_has_no_number_in_a_response(waiting: bytes) -> None:
    stream = ResponsesStream(ROUTE, "mine")
    stream.feed(waiting)
    assert not stream.has_begun and not stream.has_content
    created = event("response.created", sequence_number=0, response={"id": "r", "status": "in_progress"})
    stream.feed(created + waiting * 2)
    assert parse_stream([stream.finish()])[-1].json()["sequence_number"] == 1


def test_seam_drops_white_space_that_comes_in_pieces() -> None:
    seam = Seam("\n\n  ")
    assert [seam.feed(text) for text in ("\n", "\n ", " - x", "\n")] == ["", "", "- x", "\n"]
    other = Seam("\n\n")
    assert [other.feed(text) for text in ("\n- x", "\n")] == ["- x", "\n"]
