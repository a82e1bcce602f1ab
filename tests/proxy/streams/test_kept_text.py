"""The text that is kept of an answer: the same in any form of its events, and plain only if there is nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bouchet_proxy.streams.kept_text import FOLD_BYTES, ChatText, KeptText, MessageText
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.lists(st.text(max_size=20), max_size=8)
SPACED, COMPACT = (", ", ": "), (",", ":")


def chat_event(separators: tuple[str, str], **delta: Any) -> bytes:
    chunk = {"id": "c", "created": 1, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    return f"data: {json.dumps(chunk, separators=separators)}\n\n".encode()


def message_event(separators: tuple[str, str], **delta: Any) -> bytes:
    data = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", **delta}}
    return f"event: content_block_delta\ndata: {json.dumps(data, separators=separators)}\n\n".encode()


KINDS = [(ChatText, chat_event, "content"), (MessageText, message_event, "text")]


def kept(kind: type[KeptText], events: list[bytes]) -> KeptText:
    found = kind()
    for one in events:
        found.add(one)
    return found


@pytest.mark.parametrize(("kind", "event", "field"), KINDS)
@given(texts=TEXTS)
def test_text_is_that_of_all_events_in_any_form(kind: type[KeptText], event: Any, field: str, texts: list[str]) -> None:
    usual = [event(COMPACT, **{field: text}) for text in texts]
    odd = [b": ping\n\n", *(event(SPACED, **{field: text}).replace(b"data: ", b"data:") for text in texts)]
    found, other = kept(kind, usual), kept(kind, odd)
    assert found.text() == other.text() == "".join(texts)
    assert found.is_plain and other.is_plain and found.count == other.count == len(list(filter(None, texts)))


@pytest.mark.parametrize(("kind", "event", "field"), KINDS)
def test_long_text_is_folded_on_the_way(kind: type[KeptText], event: Any, field: str) -> None:
    texts = [f"{number} " for number in range(FOLD_BYTES // 20)]
    found = kept(kind, [event(COMPACT, **{field: text}) for text in texts])
    assert len(found._events) <= FOLD_BYTES and found.text() == "".join(texts)


@pytest.mark.parametrize(
    "event",
    [
        chat_event(COMPACT, tool_calls=[{"index": 0}]),
        chat_event(COMPACT, reasoning="hm"),
        b"data: [DONE]\n\n",
        b'data: {"choices":{}}\n\n' + chat_event(COMPACT, refusal="no"),
        b'data: {"choices":[5]}\n\n',
        b"data: 5\n\n",
        b"data: 5,6\n\n",
    ],
)
def test_anything_else_is_not_plain(event: bytes) -> None:
    found = kept(ChatText, [chat_event(COMPACT, content="a"), event])
    assert found.text() == "a" and not found.is_plain
