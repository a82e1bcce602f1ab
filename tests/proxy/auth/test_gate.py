"""What may be under way at a time, and what a body may contain, without a server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack

import orjson
import pytest
from bouchet_proxy import admission
from bouchet_proxy.admission import (
    _SURROGATE,
    _WINDOW_BYTES,
    LARGE_BODY_BYTES,
    MAX_JSON_VALUES,
    MAX_SURROGATES,
    Gate,
    Load,
    LoadLimits,
    Ticket,
    TooManyValuesError,
    TooMuchUnderWayError,
    ValueCount,
    parse_json,
    texts_size,
)
from hypothesis import example, given
from hypothesis import strategies as st


def make_gate() -> Gate:
    return Gate(LoadLimits(2, 100), LoadLimits(3, 150))


def refused(gate: Gate, key: str, owner: bool = False) -> tuple[str, int, bool]:
    with pytest.raises(TooMuchUnderWayError) as caught:
        gate.enter(key, owner)
    return caught.value.what, caught.value.limit, caught.value.shared


def refused_bytes(ticket: Ticket, count: int) -> tuple[int, bool]:
    with pytest.raises(TooMuchUnderWayError) as caught:
        ticket.hold(count)
    return caught.value.limit, caught.value.shared


def test_requests_of_a_key_are_limited_until_they_end() -> None:
    gate = make_gate()
    with gate.enter("bob", False):
        with gate.enter("bob", False):
            assert refused(gate, "bob") == ("requests", 2, False)
        with gate.enter("bob", False):
            pass
    assert gate.total == Load()


def test_requests_of_all_keys_are_limited_together() -> None:
    gate = make_gate()
    with gate.enter("bob", False), gate.enter("eve", False), gate.enter("owner", True):
        assert refused(gate, "carol") == ("requests", 3, True)
        assert refused(gate, "owner", owner=True) == ("requests", 3, True)


def test_owner_has_only_the_limit_of_all() -> None:
    gate = make_gate()
    with ExitStack() as running:
        tickets = [running.enter_context(gate.enter("owner", True)) for _ in range(3)]
        tickets[0].hold(150)
        assert refused_bytes(tickets[1], 1) == (150, True)


def test_bytes_are_counted_as_they_come() -> None:
    gate = make_gate()
    with gate.enter("bob", False) as bob, gate.enter("eve", False) as eve:
        bob.expect(100)
        assert gate.total.size_bytes == 0
        bob.hold(60)
        bob.hold(40)
        assert refused_bytes(bob, 1) == (100, False)
        assert refused_bytes(eve, 51) == (150, True)
        with pytest.raises(TooMuchUnderWayError):
            eve.expect(51)
        eve.hold(50)
        assert gate.total.size_bytes == 150
    assert gate.total == Load()


def test_ticket_of_a_failed_request_is_given_back() -> None:
    gate = make_gate()
    with pytest.raises(TooMuchUnderWayError), gate.enter("bob", False) as ticket:
        ticket.hold(1000)
    assert gate.total == Load()


def count(body: bytes, piece_bytes: int) -> int:
    """Count a body that comes in pieces; return the bytes that were taken."""
    counted = ValueCount()
    for start in range(0, len(body), piece_bytes):
        counted.add(body[start : start + piece_bytes])
    return len(body)


@pytest.mark.parametrize("value", [b"{}", b"[]", b"1"])
@pytest.mark.parametrize("piece_bytes", [1_000, 65_536, 1 << 30])
def test_body_of_too_many_values_is_refused_while_it_comes(value: bytes, piece_bytes: int) -> None:
    body = b"[" + value + (b"," + value) * MAX_JSON_VALUES
    with pytest.raises(TooManyValuesError):
        count(body, piece_bytes)


def test_body_of_many_values_is_parsed() -> None:
    values = list(range(MAX_JSON_VALUES - 10))
    body = json.dumps(values).encode()
    assert count(body, 65_536) and parse_json(body) == values


@pytest.mark.parametrize("window_bytes", [3, 1 << 18])
@pytest.mark.parametrize("escaped", [True, False])
@given(st.text(st.sampled_from('ab\\"/u d8\ud83d\ude00\udc00é\n'), max_size=12))
@example("cut within a character: \ud83d")
@example("\\\ud83d\\\\\ude00\ud83d\ude00")
def test_halves_of_characters_are_replaced(escaped: bool, window_bytes: int, text: str) -> None:
    """As JavaScript itself shows them: its JSON writes a half as an escape."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    body = json.dumps({"a": [text], text: 1}) if escaped else json.dumps({"a": [whole], whole: 1}, ensure_ascii=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "_WINDOW_BYTES", window_bytes)
        assert parse_json(body.encode()) == {"a": [whole], whole: 1}


@pytest.mark.parametrize("body", [rb'{"a": "\ud83d}', rb'{"a": "\ud8"}', rb'"\u', b'{"a": 1,}'])
def test_what_else_is_wrong_with_a_body_is_refused(body: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        parse_json(body)


def test_halves_of_characters_are_replaced_in_linear_time() -> None:
    started = time.thread_time()
    with pytest.raises(orjson.JSONDecodeError):
        parse_json(b'"' + b"\\" * 1_000_001 + b"u")
    halves = b'"' + rb"\ud83d" * MAX_SURROGATES
    assert parse_json(halves + b'"') == "\N{REPLACEMENT CHARACTER}" * MAX_SURROGATES
    with pytest.raises(orjson.JSONDecodeError):
        parse_json(halves + rb"\ud83d" + b'"')
    assert time.thread_time() - started < 5


def test_other_threads_run_while_a_large_body_that_is_no_json_is_searched() -> None:
    """No search within it is longer than a window, of which each takes the lock of all threads."""
    body = b" " * (4 * _WINDOW_BYTES) + rb'"\ud83d"'
    turns = 0

    class Searches:
        """Counts searches, and passes them on."""

        def finditer(self, data: bytes, start: int, end: int) -> Iterator[re.Match[bytes]]:
            nonlocal turns
            turns += 1
            assert end - start <= _WINDOW_BYTES + 3
            return _SURROGATE.finditer(data, start, end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "_SURROGATE", Searches())
        assert parse_json(body) == "\N{REPLACEMENT CHARACTER}"
    assert turns == 5


@pytest.mark.parametrize("piece_bytes", [65_536, 1 << 30])
def test_values_are_counted_in_every_piece(piece_bytes: int) -> None:
    gap = b"x" * LARGE_BODY_BYTES
    assert count(gap + b"," * (MAX_JSON_VALUES // 2) + gap + b"[" * (MAX_JSON_VALUES // 2), piece_bytes)
    with pytest.raises(TooManyValuesError):
        count(gap + b"," * (MAX_JSON_VALUES // 2) + gap + b"[" * (MAX_JSON_VALUES // 2 + 1), piece_bytes)


def test_texts_size_sees_what_one_character_costs() -> None:
    plain, wide = "a" * 100_000, "a" * 99_999 + "\U0001f600"
    assert 100_000 <= texts_size({"m": [{"t": plain}]}) < 101_000
    assert 400_000 <= texts_size({"m": [{"t": wide}]}) < 401_000
    assert texts_size({plain: None}) >= 100_000
