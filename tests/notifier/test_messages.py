"""Which messages follow from what the notifier reads. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bouchet_core.notices import EVENTS, Notice, NoticeKind, plain_text
from bouchet_core.tunnel import TunnelEvent, TunnelState
from bouchet_notifier.messages import PersonState, messages_of
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 29, 14, 0, tzinfo=UTC)


def notice(
    number: int, kind: NoticeKind = NoticeKind.READY, minutes_ago: float = 0, *, asked: bool = False
) -> tuple[str, Notice]:
    at = NOW - timedelta(minutes=minutes_ago)
    return f"{number}-0", Notice(key=f"k{number}", kind=kind, title=f"title {number}", at=at, asked=asked)


def event(state: TunnelState, minutes: float = 0, **more: str) -> TunnelEvent:
    return TunnelEvent.model_validate(
        {"state": state, "host": "login.example", "at": NOW + timedelta(minutes=minutes), **more}
    )


NEEDS = TunnelState.NEEDS_HUMAN


def test_each_fresh_notice_is_one_message() -> None:
    found = messages_of([notice(1), notice(2, NoticeKind.ENDED)], EVENTS, NOW)
    assert [(one.id, one.kind, one.title) for one in found] == [
        ("notice-1-0", NoticeKind.READY, "title 1"),
        ("notice-2-0", NoticeKind.ENDED, "title 2"),
    ]


def test_old_notices_are_one_summary() -> None:
    old = [notice(1, minutes_ago=40), notice(2, NoticeKind.ENDED, 30), notice(3, NoticeKind.ENDED, 20)]
    summary, fresh = messages_of([*old, notice(4)], EVENTS, NOW)
    assert (summary.id, summary.kind, fresh.id) == ("summary-1-0", NoticeKind.SUMMARY, "notice-4-0")
    assert summary.title == "3 messages were missed"
    assert "1 ready, 2 ended" in summary.text and "title 3" in summary.text


def test_events_choose_what_is_sent_and_asked_for_is_always_sent() -> None:
    pairs = [notice(1), notice(2, NoticeKind.ENDED), notice(3, asked=True)]
    assert [one.title for one in messages_of(pairs, (NoticeKind.ENDED,), NOW)] == ["title 2", "title 3"]
    assert [one.title for one in messages_of(pairs, (), NOW)] == ["title 3"]
    assert messages_of([notice(1, minutes_ago=60)], (), NOW) == []


def test_notice_of_the_future_is_sent_at_once() -> None:
    assert len(messages_of([notice(1, minutes_ago=-600)], EVENTS, NOW)) == 1


def test_wait_for_a_person_is_one_happening_until_the_connection_is_up() -> None:
    state = PersonState().advance("1-0", event(NEEDS, waits_for="prompt"))
    assert state.is_due and state.title == "login.example waits for your second factor"
    sent = state.model_copy(update={"sent_at": NOW})
    for entry, one in (("2-0", event(NEEDS, 1)), ("3-0", event(TunnelState.CONNECTING, 2)), ("4-0", event(NEEDS, 3))):
        sent = sent.advance(entry, one)
        assert not sent.is_due
    again = sent.advance("5-0", event(TunnelState.UP, 4)).advance("6-0", event(NEEDS, 5))
    assert again.is_due and again.message(NOW).id == "person-6-0"


@pytest.mark.parametrize("state", [TunnelState.UP, TunnelState.CONNECTING, TunnelState.DOWN])
def test_wait_that_goes_on_by_itself_sends_nothing(state: TunnelState) -> None:
    assert not PersonState().advance("1-0", event(NEEDS)).advance("2-0", event(state)).is_due


def test_same_wait_keeps_its_first_event_and_a_new_one_after_long_is_new() -> None:
    state = PersonState().advance("1-0", event(NEEDS)).advance("2-0", event(NEEDS, 1))
    assert state.message(NOW).id == "person-1-0"
    sent = state.model_copy(update={"sent_at": NOW})
    assert sent.advance("3-0", event(NEEDS, 29)) == sent
    assert sent.advance("4-0", event(NEEDS, 31)).is_due
    assert not sent.advance("5-0", event(NEEDS, -29)).is_due, "a clock that goes back asks for nothing"


def test_host_key_and_refused_login_have_texts_of_their_own() -> None:
    key = PersonState().advance("1-0", event(NEEDS, waits_for="host_key"))
    assert "unknown host key" in key.title and "--trust" in key.text
    refused = PersonState().advance("1-0", event(TunnelState.REFUSED, detail="Permission denied (publickey)"))
    assert "refuses the login" in refused.title and "publickey" in refused.text


@given(st.lists(st.sampled_from(list(TunnelState)), max_size=30))
def test_person_state_is_due_at_most_once_between_two_connections(states: list[TunnelState]) -> None:
    state, sent = PersonState(), 0
    for number, one in enumerate(states):
        state = state.advance(f"{number}-0", event(one))
        if one is TunnelState.UP:
            assert not state.is_due
            sent = 0
        if state.is_due:
            sent += 1
            state = state.model_copy(update={"sent_at": NOW})
        assert sent <= 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\nc\x00", "a [31mb c"),
        ("token hf_abcdefghij and sk-bouchet-12345678", "token *** and ***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("https://user:pass@host/x", "https://***@host/x"),
        ("@everyone <!channel> mail a@b.c", "@\u200beveryone <\u200b!channel> mail a@b.c"),
        ("x" * 50, "x" * 19 + "…"),
    ],
)
def test_plain_text_has_no_controls_secrets_or_pings(text: str, shown: str) -> None:
    assert plain_text(text, 60 if len(text) < 50 else 20) == shown


@given(st.text(max_size=300))
def test_plain_text_is_one_printable_line_within_its_length(text: str) -> None:
    found = plain_text(text, 100)
    assert len(found) <= 100 and all(char.isprintable() or char == "\u200b" for char in found)
