"""The prompt desk alone."""

from __future__ import annotations

import asyncio

import pytest
from bouchet_core.errors import StalePromptError
from bouchet_gateway.errors import BadRequestError, PromptUnansweredError
from bouchet_gateway.ssh.prompts import NOT_ACCEPTED, PromptBroker, printable

MENU = [("Passcode or option (1-2): ", False)]


async def test_an_empty_challenge_is_answered_with_nothing() -> None:
    assert await PromptBroker(1).ask("Success. Logging you in...", []) == []


async def test_an_unanswered_prompt_ends_with_words() -> None:
    broker = PromptBroker(0.05)
    with pytest.raises(PromptUnansweredError, match="bouchet tunnel"):
        await broker.ask("", MENU)
    assert broker.prompt is None


async def test_only_the_open_prompt_takes_answers_and_only_once() -> None:
    broker = PromptBroker(5)
    with pytest.raises(StalePromptError):
        broker.answer("x", ["1"])
    asking = asyncio.create_task(broker.ask("", MENU))
    await asyncio.sleep(0)
    assert broker.prompt is not None
    prompt = broker.prompt.id
    with pytest.raises(BadRequestError):
        broker.answer(prompt, [])
    broker.answer(prompt, ["1"])
    with pytest.raises(StalePromptError):
        broker.answer(prompt, ["2"])
    assert await asking == ["1"]
    with pytest.raises(StalePromptError):
        broker.answer(prompt, ["3"])


async def test_the_automatic_answer_is_for_menus_and_once_a_minute() -> None:
    now = [1000.0]
    broker = PromptBroker(0.01, "1", monotonic=lambda: now[0])
    with pytest.raises(PromptUnansweredError):
        await broker.ask("", [("Password: ", False)])
    assert await broker.ask("", MENU) == ["1"]
    for now[0] in (1000.0, 1059.9):
        broker.begin_login()
        with pytest.raises(PromptUnansweredError):
            await broker.ask("", MENU)
    now[0] = 1060.0
    assert await broker.ask("", MENU) == ["1"]


async def test_off_means_never() -> None:
    with pytest.raises(PromptUnansweredError):
        await PromptBroker(0.01).ask("", MENU)


async def test_a_new_login_forgets_the_last_one() -> None:
    broker = PromptBroker(5)
    for expected in ("", NOT_ACCEPTED):
        broker.method_started()
        asking = asyncio.create_task(broker.ask("", MENU))
        await asyncio.sleep(0)
        assert broker.prompt is not None
        assert broker.prompt.title == expected
        broker.answer(broker.prompt.id, ["x"])
        await asking
    broker.begin_login()
    broker.method_started()
    asking = asyncio.create_task(broker.ask("t", MENU))
    await asyncio.sleep(0)
    assert broker.prompt is not None
    assert broker.prompt.title == "t"
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert broker.prompt is None


async def test_the_same_question_again_means_a_wrong_answer() -> None:
    broker = PromptBroker(5)
    broker.method_started()
    for questions, expected in ((MENU, ""), (MENU, NOT_ACCEPTED), ([("Code: ", False)], "")):
        asking = asyncio.create_task(broker.ask("", questions))
        await asyncio.sleep(0)
        assert broker.prompt is not None
        assert broker.prompt.title == expected
        broker.answer(broker.prompt.id, ["x"])
        await asking


def test_a_server_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\nc\td\x07ü") == "a[2Jb\ncdü"
