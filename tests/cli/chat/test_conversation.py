"""Conversation, typed input and streamed answers."""

from __future__ import annotations

import pytest
from bouchet_cli.chat.conversation import (
    AnswerPart,
    Conversation,
    history_path,
    is_unfinished,
    message_text,
    parse_answer,
)
from bouchet_cli.client.errors import CommandError


def test_conversation_removes_a_question_without_answer() -> None:
    conversation = Conversation("m", "s")
    conversation.add_question("q")
    conversation.add_answer("")
    assert conversation.turns == []


def test_conversation_request_and_markdown_have_all_turns() -> None:
    conversation = Conversation("m", "s")
    conversation.add_question("q")
    conversation.add_answer("a")
    roles = [message["role"] for message in conversation.request()["messages"]]
    assert roles == ["system", "user", "assistant"]
    assert "**assistant**\n\na" in conversation.markdown()


def test_markdown_has_the_whole_system_prompt_and_names_each_model() -> None:
    conversation = Conversation("one", "first line\n\nlast line")
    for model in ("one", "two"):
        conversation.model = model
        conversation.add_question("q")
        conversation.add_answer(f"of {model}")
    text = conversation.markdown()
    assert text.startswith("# Conversation with one, two\n\n> first line\n>\n> last line\n")
    assert "**assistant (one)**\n\nof one" in text and "**assistant (two)**\n\nof two" in text


def test_message_continues_after_backslash_and_between_quotes() -> None:
    assert not is_unfinished([])
    assert is_unfinished(["a \\"])
    assert not is_unfinished(["a \\", "b"])
    assert is_unfinished(['"""a', "b"])
    assert message_text(['"""a', 'b"""']) == "a\nb"
    assert message_text(["a\\", "b"]) == "a\nb"


@pytest.mark.parametrize(("state", "folder"), [("/s", "/s"), ("relative", "/h/.local/state"), ("", "/h/.local/state")])
def test_history_path_follows_the_xdg_rules(state: str, folder: str) -> None:
    assert str(history_path({"XDG_STATE_HOME": state, "HOME": "/h"})) == f"{folder}/bouchet/chat-history"


def test_parse_answer_separates_thinking_and_text() -> None:
    text = 'data: {"choices": [{"delta": {"content": "a"}}, {"delta": {"role": "assistant"}}]}'
    thinking = 'data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}'
    parts = list(parse_answer(iter([": ping", thinking, text, 'data: {"choices": []}', "data: [DONE]"])))
    assert parts == [AnswerPart("hm", thinking=True), AnswerPart("a")]


@pytest.mark.parametrize("line", ["data: {", 'data: {"error": {"message": "prompt is too long"}}'])
def test_parse_answer_raises_for_errors(line: str) -> None:
    with pytest.raises(CommandError):
        list(parse_answer(iter([line])))
