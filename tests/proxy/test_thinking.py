from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.thinking import ThinkStripper, settle_anthropic, settle_openai, strip_thinking
from hypothesis import given
from hypothesis import strategies as st

NONE, OFF, ON, ALWAYS = (Traits(thinking=word, reasoning_parser="qwen3") for word in ("none", "off", "on", "always"))
ADAPTIVE = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}, "max_tokens": 4000}
ENABLED = {"thinking": {"type": "enabled", "budget_tokens": 31999}, "max_tokens": 4000}

# text made of what a stripper could stumble over
SCRAPS = ["<think>", "</think>", "<", "th", "ink>", "</", ">", " ", "\n", "a", "é", "<thin"]
TAGGY = st.lists(st.sampled_from(SCRAPS)).map("".join)
THOUGHTS = st.text().filter(lambda t: "</think>" not in t)
PLAIN = st.text().filter(lambda t: not t.lstrip().startswith(("<think>", "</think>")))


def in_pieces(text: str, cuts: list[int]) -> list[str]:
    borders = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(borders)]


def streamed(pieces: list[str]) -> str:
    stripper = ThinkStripper()
    return "".join([stripper.feed(piece) for piece in pieces]) + stripper.finish()


@given(TAGGY, st.lists(st.integers(0, 60)))
def test_any_chunking_gives_the_same_text(text: str, cuts: list[int]) -> None:
    assert streamed(in_pieces(text, cuts)) == strip_thinking(text)


@given(THOUGHTS, PLAIN)
def test_exactly_the_block_goes(thought: str, text: str) -> None:
    assert strip_thinking(f"\n<think>{thought}</think>{text}") == "\n" + text


@given(PLAIN)
def test_text_that_opens_with_no_block_is_never_touched(text: str) -> None:
    assert strip_thinking(text) == text


@given(st.text(min_size=1).filter(lambda t: t.strip() and not t.lstrip().startswith("<")))
def test_text_that_cannot_be_a_tag_waits_for_nothing(text: str) -> None:
    assert ThinkStripper().feed(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<think>a</think>\n\n<think>b</think>c", "\n\nc"),
        ("<think>never closed", ""),
        ("use `<think>` here </think>", "use `<think>` here </think>"),
        ("<thin", "<thin"),
        ("</think>\n\nyes", "\n\nyes"),
        ("</thin", "</thin"),
        ("it ends with </think>", "it ends with </think>"),
        ("<thinking>x", "<thinking>x"),
        ("", ""),
    ],
)
def test_cases(text: str, shown: str) -> None:
    assert strip_thinking(text) == shown


@given(TAGGY, st.lists(st.integers(0, 60)))
def test_any_chunking_of_an_answer_that_begins_inside_gives_the_same_text(text: str, cuts: list[int]) -> None:
    stripper = ThinkStripper(opened=True)
    shown = "".join([stripper.feed(piece) for piece in in_pieces(text, cuts)]) + stripper.finish()
    assert shown == strip_thinking(text, opened=True)


@given(THOUGHTS, PLAIN.filter(lambda t: not t.lstrip().startswith("</think>")))
def test_an_orphan_end_takes_what_was_before_it(thought: str, text: str) -> None:
    assert strip_thinking(f"{thought}</think>{text}", opened=True) == text


@given(st.text().filter(lambda t: "think>" not in t))
def test_an_answer_that_never_ends_its_block_is_kept_whole(text: str) -> None:
    assert strip_thinking(text, opened=True) == text


def test_a_long_thought_costs_no_more_than_its_length() -> None:
    stripper = ThinkStripper(opened=True)
    assert "".join([stripper.feed("x" * 100) for _ in range(20_000)]) == ""
    assert stripper.feed("</think>done") == "done"


@pytest.mark.parametrize(
    ("traits", "body", "thinking", "effort"),
    [
        (NONE, ADAPTIVE, None, None),
        (NONE, ENABLED, None, None),
        (OFF, ADAPTIVE, {"type": "disabled"}, None),
        (OFF, {}, {"type": "disabled"}, None),
        (OFF, ENABLED, {"type": "enabled", "budget_tokens": 3999}, "medium"),
        (ON, ADAPTIVE, {"type": "adaptive"}, "high"),
        (ON, {"thinking": {"type": "disabled"}}, {"type": "disabled"}, None),
        (ALWAYS, ADAPTIVE, None, None),
        (ALWAYS, {"thinking": {"type": "disabled"}}, None, None),
        (OFF, {**ENABLED, "max_tokens": 500}, {"type": "adaptive"}, "medium"),
        (Traits(thinking="off"), ENABLED, {"type": "adaptive"}, "medium"),
    ],
)
def test_what_an_anthropic_client_asks_becomes_what_the_model_can(
    traits: Traits, body: dict[str, Any], thinking: object, effort: str | None
) -> None:
    settled = settle_anthropic(body, traits)
    assert settled.get("thinking") == thinking
    assert (settled.get("output_config") or {}).get("effort") == effort


def test_the_output_format_stays() -> None:
    form = {"type": "json_schema", "schema": {}}
    settled = settle_anthropic({"output_config": {"format": form, "effort": "max"}}, NONE)
    assert settled["output_config"] == {"format": form}


def test_an_openai_client_gets_the_default_unless_it_says_otherwise() -> None:
    assert settle_openai({}, OFF) == {"chat_template_kwargs": {"enable_thinking": False}}
    assert settle_openai({}, ON) == {"chat_template_kwargs": {"enable_thinking": True}}
    said: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": True}}
    assert settle_openai(said, OFF) == said
    assert settle_openai({"reasoning_effort": "high"}, OFF) == {"reasoning_effort": "high"}
    assert settle_openai({"reasoning_effort": "high"}, NONE) == {}
