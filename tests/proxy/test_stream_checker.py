"""The stream checker on legal streams, and on streams with one fault each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from bouchet_proxy.streams.sse import render

from tests.fakes.vllm.payloads import anthropic_events, chat_events
from tests.fakes.vllm.script import Script
from tests.proxy.stream_checker import IllegalStreamError, check_stream

MESSAGES, CHAT, COMPLETIONS, RESPONSES = (
    "/v1/messages?beta=true",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
ERROR = render("error", {"type": "error", "error": {"type": "api_error", "message": "boom"}})
DONE = b"data: [DONE]\n\n"


def message() -> list[bytes]:
    """Return start, text block of two deltas, tool block of two deltas, delta, stop: 12 events."""
    script = Script('SAY[one two] CALL[f {"a": 1}]')
    return [event.encode() for event in anthropic_events({"model": "tiny"}, script, 7)]


def chat() -> list[bytes]:
    return [event.encode() for event in chat_events({"model": "tiny"}, Script("SAY[one two]"), 7)]


def with_fields(raw: bytes, **fields: Any) -> bytes:
    """Return the event with these fields in place of its own."""
    head, _, data = raw.rpartition(b"data: ")
    return head + b"data: " + json.dumps({**json.loads(data), **fields}).encode() + b"\n\n"


def test_message_with_pings_and_comments_anywhere_is_legal() -> None:
    events = message()
    assert len(check_stream(MESSAGES, b"".join(events))) == len(events)
    for at in range(len(events) + 1):
        check_stream(MESSAGES, b"".join([*events[:at], PING, b": hm\n\n", *events[at:]]))


@pytest.mark.parametrize("at", range(len(message())))
def test_message_error_is_legal_anywhere_as_the_last_event(at: int) -> None:
    events = message()
    check_stream(MESSAGES, b"".join([*events[:at], ERROR]))
    with pytest.raises(IllegalStreamError):
        check_stream(MESSAGES, b"".join([*events[:at], ERROR, *events[at:]]))


@pytest.mark.parametrize("at", range(len(message())))
def test_message_without_an_event_is_illegal_unless_it_is_a_text_delta(at: int) -> None:
    events = message()
    left = b"".join(events[:at] + events[at + 1 :])
    if b"text_delta" in events[at] or b'"partial_json":" "' in events[at]:
        check_stream(MESSAGES, left)
    else:
        with pytest.raises(IllegalStreamError):
            check_stream(MESSAGES, left)


@pytest.mark.parametrize("at", [n for n, raw in enumerate(message()) if b"event: content_block_delta" not in raw])
def test_message_with_an_event_twice_is_illegal_unless_it_is_a_delta(at: int) -> None:
    events = message()
    with pytest.raises(IllegalStreamError):
        check_stream(MESSAGES, b"".join([*events[: at + 1], *events[at:]]))


def test_message_with_two_events_exchanged_is_illegal() -> None:
    events = message()
    for at in range(len(events) - 1):
        one, two = events[at], events[at + 1]
        if one.partition(b"\n")[0] != two.partition(b"\n")[0]:
            with pytest.raises(IllegalStreamError):
                check_stream(MESSAGES, b"".join([*events[:at], two, one, *events[at + 2 :]]))


WRONG_MESSAGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "another index": lambda e: [e[0], with_fields(e[1], index=3), *e[2:]],
    "a delta of another block": lambda e: [*e[:2], with_fields(e[2], index=1), *e[3:]],
    "a delta of another type": lambda e: [
        *e[:2],
        with_fields(e[2], delta={"type": "thinking_delta", "thinking": "x"}),
        *e[3:],
    ],
    "a delta without its text": lambda e: [*e[:2], with_fields(e[2], delta={"type": "text_delta"}), *e[3:]],
    "an unknown block": lambda e: [e[0], with_fields(e[1], content_block={"type": "sound"}), *e[2:]],
    "a type that is not the event's": lambda e: [e[0], with_fields(e[1], type="ping"), *e[2:]],
    "an unknown event": lambda e: [e[0], render("hello", {"type": "hello"}), *e[1:]],
    "usage without a count": lambda e: [*e[:-2], with_fields(e[-2], usage={}), e[-1]],
    "a negative count": lambda e: [*e[:-2], with_fields(e[-2], usage={"output_tokens": -1}), e[-1]],
    "no reason to stop": lambda e: [*e[:-2], with_fields(e[-2], delta={"stop_reason": None}), e[-1]],
    "cut within an event": lambda e: [*e[:-1], e[-1][:-5]],
    "no index": lambda e: [*e[:2], e[2].replace(b'"index"', b'"place"'), *e[3:]],
    "not JSON": lambda e: [*e[:2], b"event: content_block_delta\ndata: {\n\n", *e[2:]],
    "no events": lambda _: [],
}


@pytest.mark.parametrize("how", WRONG_MESSAGES)
def test_message_with_one_fault_is_illegal(how: str) -> None:
    broken = WRONG_MESSAGES[how](message())
    with pytest.raises(IllegalStreamError):
        check_stream(MESSAGES, b"".join(broken))


def test_message_cut_off_has_a_legal_beginning() -> None:
    events = message()
    check_stream(MESSAGES, b"".join(events[:4]) + events[4][:9], cut_off=True)
    with pytest.raises(IllegalStreamError):
        check_stream(MESSAGES, b"".join(events[1:4]), cut_off=True)


def call(index: int, arguments: str, **head: str) -> bytes:
    function = {"arguments": arguments, **({"name": head["name"]} if "name" in head else {})}
    tool_call: dict[str, Any] = {"index": index, "function": function, "type": "function"}
    tool_call |= {"id": head["id"]} if "id" in head else {}
    return chunk({"tool_calls": [tool_call]})


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    return render("", {**head, "choices": [choice], **fields})


FIRST, SECOND = call(0, '{"a": ', id="t1", name="f"), call(0, "1}")
END = chunk({}, "tool_calls")
USAGE = chunk({}, choices=[], usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})


def test_chat_is_legal() -> None:
    assert len(check_stream(CHAT, b"".join(chat()))) == len(chat())
    check_stream(CHAT, b"".join([FIRST, SECOND, call(1, "", id="t2", name="g"), END, USAGE, DONE]))
    check_stream(CHAT, b": ping\n\n" + FIRST + render("", {"error": {"message": "m", "type": "t"}}) + DONE)


WRONG_CHATS = {
    "no end": [FIRST, SECOND, END],
    "never finished": [FIRST, SECOND, DONE],
    "text after the finish": [FIRST, SECOND, END, chunk({"content": "x"}), DONE],
    "an event after the end": [FIRST, SECOND, END, DONE, USAGE],
    "arguments are not JSON": [FIRST, END, DONE],
    "a call without a name": [call(0, "{}", id="t1"), END, DONE],
    "a call without an id": [call(0, "{}", name="f"), END, DONE],
    "two calls of one id": [call(0, "{}", id="t", name="f"), call(1, "{}", id="t", name="f"), END, DONE],
    "a call's index left out": [call(1, "{}", id="t", name="f"), END, DONE],
    "a finish without its call": [chunk({"content": "x"}), END, DONE],
    "another id": [FIRST, chunk({"content": "x"}, id="c2"), SECOND, END, DONE],
    "an unknown finish": [chunk({"content": "x"}, "done"), DONE],
    "usage without counts": [chunk({"content": "x"}, "stop"), chunk({}, choices=[], usage={}), DONE],
    "an error without a message": [render("", {"error": {}}), DONE],
    "an event after the error": [render("", {"error": {"message": "m", "type": "t"}}), FIRST, DONE],
    "a name": [b"event: message_start\n" + FIRST],
}


@pytest.mark.parametrize("how", WRONG_CHATS)
def test_chat_with_one_fault_is_illegal(how: str) -> None:
    with pytest.raises(IllegalStreamError):
        check_stream(CHAT, b"".join(WRONG_CHATS[how]))


def test_completion_and_chat_are_not_interchangeable() -> None:
    text = render("", {"id": "c", "object": "text_completion", "model": "m", "choices": [{"index": 0, "text": "a"}]})
    end = text.replace(b'"text":"a"', b'"text":"","finish_reason":"stop"')
    check_stream(COMPLETIONS, text + end + DONE)
    for path, data in ((CHAT, text + end + DONE), (COMPLETIONS, b"".join(chat())), (COMPLETIONS, text + DONE)):
        with pytest.raises(IllegalStreamError):
            check_stream(path, data)


def response_event(kind: str, **fields: Any) -> bytes:
    return render(kind, {"type": kind, **fields})


RESPONSE = [
    response_event("response.created", sequence_number=0),
    response_event("response.output_item.added", sequence_number=1, output_index=0, item={"type": "message"}),
    response_event("response.output_text.delta", sequence_number=2, output_index=0, delta="a"),
    response_event("response.output_item.done", sequence_number=3, output_index=0, item={"type": "message"}),
    response_event("response.completed", sequence_number=4),
]


def test_response_is_legal() -> None:
    assert len(check_stream(RESPONSES, b"".join(RESPONSE))) == 5


@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_response_with_an_event_missing_or_twice_is_illegal(at: int) -> None:
    for events in (RESPONSE[:at] + RESPONSE[at + 1 :], RESPONSE[: at + 1] + RESPONSE[at:]):
        with pytest.raises(IllegalStreamError):
            check_stream(RESPONSES, b"".join(events))
