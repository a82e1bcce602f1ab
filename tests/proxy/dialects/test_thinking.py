"""When a model is asked to think, and how think blocks are removed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.thinking import (
    ThinkStripper,
    resolve_anthropic_thinking,
    resolve_openai_thinking,
    strip_thinking,
)
from hypothesis import given
from hypothesis import strategies as st

NONE, OFF, ON, ALWAYS = (Traits(thinking=trait, reasoning_parser="qwen3") for trait in ("none", "off", "on", "always"))
ADAPTIVE = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}, "max_tokens": 4000}
ENABLED = {"thinking": {"type": "enabled", "budget_tokens": 31999}, "max_tokens": 4000}

# text made of pieces of tags
PIECES = ["<think>", "</think>", "<", "th", "ink>", "</", ">", " ", "\n", "a", "é", "<thin"]
TAGGED = st.lists(st.sampled_from(PIECES)).map("".join)
THOUGHTS = st.text().filter(lambda t: "</think>" not in t)
PLAIN = st.text().filter(lambda t: not t.lstrip().startswith(("<think>", "</think>")))


def split_at(text: str, cuts: list[int]) -> list[str]:
    borders = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(borders)]


def strip_pieces(pieces: list[str]) -> str:
    stripper = ThinkStripper()
    return "".join([stripper.feed(piece) for piece in pieces]) + stripper.finish()


@given(TAGGED, st.lists(st.integers(0, 60)))
def test_strip_in_any_pieces_gives_the_same_text(text: str, cuts: list[int]) -> None:
    assert strip_pieces(split_at(text, cuts)) == strip_thinking(text)


@given(THOUGHTS, PLAIN)
def test_strip_removes_exactly_the_leading_block(thought: str, text: str) -> None:
    assert strip_thinking(f"\n<think>{thought}</think>{text}") == "\n" + text


@given(PLAIN)
def test_strip_text_without_leading_block_is_unchanged(text: str) -> None:
    assert strip_thinking(text) == text


@given(st.text(min_size=1).filter(lambda t: t.strip() and not t.lstrip().startswith("<")))
def test_feed_text_that_cannot_be_a_tag_is_returned_at_once(text: str) -> None:
    assert ThinkStripper().feed(text) == text


@pytest.mark.parametrize(
    ("text", "visible"),
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
def test_strip_thinking(text: str, visible: str) -> None:
    assert strip_thinking(text) == visible


@given(TAGGED, st.lists(st.integers(0, 60)))
def test_strip_in_any_pieces_from_inside_a_block_gives_the_same_text(text: str, cuts: list[int]) -> None:
    stripper = ThinkStripper(starts_inside=True)
    visible = "".join([stripper.feed(piece) for piece in split_at(text, cuts)]) + stripper.finish()
    assert visible == strip_thinking(text, starts_inside=True)


@given(THOUGHTS, PLAIN.filter(lambda t: not t.lstrip().startswith("</think>")))
def test_strip_from_inside_a_block_removes_everything_up_to_its_end(thought: str, text: str) -> None:
    assert strip_thinking(f"{thought}</think>{text}", starts_inside=True) == text


@given(st.text().filter(lambda t: "think>" not in t))
def test_strip_from_inside_a_block_without_end_keeps_the_text(text: str) -> None:
    assert strip_thinking(text, starts_inside=True) == text


def test_feed_long_thoughts_takes_linear_time() -> None:
    stripper = ThinkStripper(starts_inside=True)
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
def test_resolve_anthropic_thinking(traits: Traits, body: dict[str, Any], thinking: object, effort: str | None) -> None:
    resolved = resolve_anthropic_thinking(body, traits)
    assert resolved.get("thinking") == thinking
    assert (resolved.get("output_config") or {}).get("effort") == effort


def test_resolve_anthropic_thinking_keeps_the_output_format() -> None:
    form = {"type": "json_schema", "schema": {}}
    resolved = resolve_anthropic_thinking({"output_config": {"format": form, "effort": "max"}}, NONE)
    assert resolved["output_config"] == {"format": form}


def test_resolve_openai_thinking_sets_the_models_default_unless_requested() -> None:
    assert resolve_openai_thinking({}, OFF) == {"chat_template_kwargs": {"enable_thinking": False}}
    assert resolve_openai_thinking({}, ON) == {"chat_template_kwargs": {"enable_thinking": True}}
    requested: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": True}}
    assert resolve_openai_thinking(requested, OFF) == requested
    assert resolve_openai_thinking({"reasoning_effort": "high"}, OFF) == {"reasoning_effort": "high"}
    assert resolve_openai_thinking({"reasoning_effort": "high"}, NONE) == {}
