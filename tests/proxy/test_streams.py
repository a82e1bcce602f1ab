from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.endpoints import Dialect, Endpoint
from bouchet_proxy.routing.table import Route
from bouchet_proxy.streams.filters import stream_filter, whole_answer
from bouchet_proxy.streams.sse import Cutter, events, render
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.vllm_server import Script, anthropic_events, openai_events
from tests.proxy.stream_checker import check_stream

PLAIN = Route("d", "tiny", "org/Tiny", 0, "job", 4096, Traits())
THINKING = Route("d", "tiny", "org/Tiny", 0, "job", 4096, Traits(thinking="off"))
SHOWN = 'claude-"x"-é'
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


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(borders)]


def anthropic_bytes(script: str) -> bytes:
    return "".join(anthropic_events({"model": "tiny"}, Script(script), 7)).encode()


def openai_bytes(script: str) -> bytes:
    return "".join(openai_events({"model": "tiny"}, Script(script), 7)).encode()


def filtered(dialect: Dialect, route: Route, pieces: list[bytes]) -> bytes:
    through = stream_filter(dialect, route, SHOWN)
    return b"".join([through.feed(piece) for piece in pieces]) + through.finish()


def check(data: bytes) -> list[dict[str, Any]]:
    return [event.json() for event in check_stream("/v1/messages", data)]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("route", [PLAIN, THINKING])
@given(cuts=st.lists(st.integers(0, 10**6), max_size=40))
def test_any_chunking_of_any_stream_gives_the_same_text(route: Route, script: str, cuts: list[int]) -> None:
    for dialect, data in ((Dialect.ANTHROPIC, anthropic_bytes(script)), (Dialect.OPENAI, openai_bytes(script))):
        assert filtered(dialect, route, cut(data, cuts)) == filtered(dialect, route, [data])


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("route", [PLAIN, THINKING])
def test_an_anthropic_stream_stays_legal_and_loses_only_thoughts(route: Route, script: str) -> None:
    told = Script(script)
    found = check(filtered(Dialect.ANTHROPIC, route, [anthropic_bytes(script)]))
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    assert "".join(d.get("text", "") for d in deltas) == (told.text if route is PLAIN else told.say)
    if told.tools:
        assert json.loads("".join(d.get("partial_json", "") for d in deltas)) == told.tools[0][1]
    assert found[0]["message"]["model"] == SHOWN


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("route", [PLAIN, THINKING])
def test_an_openai_stream_loses_only_thoughts(route: Route, script: str) -> None:
    told = Script(script)
    *found, last = check_stream("/v1/chat/completions", filtered(Dialect.OPENAI, route, [openai_bytes(script)]))
    assert last.data == b"[DONE]"
    chunks = [event.json() for event in found]
    assert {chunk["model"] for chunk in chunks} == {SHOWN}
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == (told.text if route is PLAIN else told.say)


@given(st.sampled_from(SCRIPTS), st.integers(0, 10**6))
def test_a_stream_that_breaks_anywhere_ends_with_an_error(script: str, at: int) -> None:
    data = anthropic_bytes(script)
    broken = data[: at % (len(data) - 1)]
    found = check_stream("/v1/messages", filtered(Dialect.ANTHROPIC, PLAIN, [broken]))
    assert found[-1].name == "error"
    assert "broke before its answer was complete" in found[-1].json()["error"]["message"]
    data = openai_bytes(script)
    broken = data[: at % (len(data) - 3)]
    found = check_stream("/v1/chat/completions", filtered(Dialect.OPENAI, PLAIN, [broken]))
    assert found[-1].data == b"[DONE]" and "error" in found[-2].json()


@pytest.mark.parametrize(
    "raw",
    [
        render("error", {"type": "error", "error": {"type": "internal_error", "message": "boom"}}),
        render("", {"error": {"message": "litellm.APIError: boom", "code": 500}}),
        render("error", {"error": {"message": "boom"}}),
    ],
)
def test_an_error_in_a_stream_is_reworded_and_ends_it(raw: bytes) -> None:
    head = anthropic_bytes("SAY[a]")[:400].rpartition(b"\n\n")[0] + b"\n\n"
    found = events([filtered(Dialect.ANTHROPIC, PLAIN, [head, raw, raw])])
    assert found[-1].json() == {"type": "error", "error": {"type": "api_error", "message": "boom"}}
    assert [event.name for event in found].count("error") == 1


def test_pings_and_comments_pass() -> None:
    stream = b": hi\n\n" + b'event: ping\ndata: {"type": "ping"}\n\n' + anthropic_bytes("SAY[a]")
    assert filtered(Dialect.ANTHROPIC, PLAIN, [stream]).startswith(b": hi\n\nevent: ping")


@given(
    st.lists(st.sampled_from([b"data: a\n\n", b"event: x\ndata: b\n\n", b"data: c\r\n\r\n"])),
    st.lists(st.integers(0, 99)),
)
def test_events_are_cut_the_same_from_any_pieces(parts: list[bytes], cuts: list[int]) -> None:
    cutter, data = Cutter(), b"".join(parts)
    found = [raw for piece in cut(data, cuts) for raw in cutter.feed(piece)]
    assert found == [part.replace(b"\r\n", b"\n") for part in parts]
    assert cutter.rest() == b""


def test_whole_answers() -> None:
    body = {"model": "tiny", "content": [{"type": "text", "text": "<think>a</think>b"}]}
    answer = json.loads(whole_answer(Endpoint.MESSAGES, json.dumps(body).encode(), THINKING, SHOWN)[0])
    assert answer == {"model": SHOWN, "content": [{"type": "text", "text": "b"}]}
    for junk in (b"", b"nope", b"[]", b"5"):
        assert whole_answer(Endpoint.CHAT, junk, THINKING, SHOWN)[0] == junk
