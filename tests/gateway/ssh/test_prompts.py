"""PromptBroker: one open prompt, its answers, and automatic answers."""

from __future__ import annotations

import asyncio

import pytest
from bouchet_core.errors import StalePromptError
from bouchet_core.tunnel import LoginPrompt
from bouchet_gateway.errors import BadRequestError, PromptUnansweredError
from bouchet_gateway.ssh.prompts import NOT_ACCEPTED, PromptBroker, printable

Questions = list[tuple[str, bool]]
MENU: Questions = [("Passcode or option (1-2): ", False)]


async def ask_and_answer(broker: PromptBroker, questions: Questions, title: str = "") -> str:
    """Ask, answer with `x`, and return the title of the prompt that was open."""
    asking = asyncio.create_task(broker.ask(title, questions))
    await asyncio.sleep(0)
    assert broker.prompt is not None
    shown = broker.prompt.title
    broker.answer(broker.prompt.id, ["x"])
    await asking
    return shown


async def test_ask_without_questions_returns_no_answers() -> None:
    assert await PromptBroker(1).ask("Success. Logging you in...", []) == []


async def test_ask_unanswered_raises() -> None:
    broker = PromptBroker(0.05)
    with pytest.raises(PromptUnansweredError):
        await broker.ask("", MENU)
    assert broker.prompt is None


async def test_answer_counts_once_and_for_open_prompt_only() -> None:
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


async def test_on_change_is_called_as_prompt_opens_and_closes() -> None:
    changes: list[LoginPrompt | None] = []
    broker = PromptBroker(5, on_change=changes.append)
    await ask_and_answer(broker, MENU, "Duo")
    opened, closed = changes
    assert opened is not None and opened.title == "Duo"
    assert closed is None


async def test_auto_answer_is_for_menus_and_once_per_minute() -> None:
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


async def test_auto_answer_unset_is_never_given() -> None:
    with pytest.raises(PromptUnansweredError):
        await PromptBroker(0.01).ask("", MENU)


async def test_method_restart_after_answer_reports_wrong_answer() -> None:
    broker = PromptBroker(5)
    for expected in ("", NOT_ACCEPTED):
        broker.method_started()
        assert await ask_and_answer(broker, MENU) == expected
    broker.begin_login()
    broker.method_started()
    assert await ask_and_answer(broker, MENU, "t") == "t"


async def test_repeated_question_reports_wrong_answer() -> None:
    broker = PromptBroker(5)
    broker.method_started()
    for questions, expected in ((MENU, ""), (MENU, NOT_ACCEPTED), ([("Code: ", False)], "")):
        assert await ask_and_answer(broker, questions) == expected


@pytest.mark.parametrize(
    ("rounds", "notices"),
    [
        # Duo: passcodes by SMS were sent as asked, then a wrong one
        ([("Duo", MENU), ("New SMS passcodes sent.", MENU), ("New SMS passcodes sent.", MENU)], [False, False, True]),
        # a server with words of its own for a wrong answer
        ([("", MENU), ("Incorrect passcode. Please try again.", MENU)], [False, False]),
        # SSSD: another question is no refusal
        ([("", [("First Factor: ", False)]), ("", [("Second Factor (optional): ", False)])], [False, False]),
    ],
)
async def test_ask_again_with_another_title_is_no_refusal(
    rounds: list[tuple[str, Questions]], notices: list[bool]
) -> None:
    broker = PromptBroker(5)
    broker.method_started()
    shown = [await ask_and_answer(broker, questions, title) for title, questions in rounds]
    assert [NOT_ACCEPTED in title for title in shown] == notices


@pytest.mark.parametrize(
    ("question", "is_menu"),
    [
        ("Passcode or option (1-3): ", True),
        ("Enter an option: ", True),
        ("Second Factor (optional): ", False),
        ("OTP (Optional): ", False),
        ("Password or option (1-2): ", True),
        ("Choose an option [1-2]: ", True),
        ("Password (? for options): ", False),
        ("Enter PIN (see options above): ", False),
        ("Your new password (options: none): ", False),
        ("Verification code: ", False),
    ],
)
async def test_auto_answer_is_for_a_word_option(question: str, is_menu: bool) -> None:
    broker = PromptBroker(0.01, "1")
    if is_menu:
        assert await broker.ask("", [(question, False)]) == ["1"]
    else:
        with pytest.raises(PromptUnansweredError):
            await broker.ask("", [(question, False)])


async def test_ask_cancelled_closes_prompt() -> None:
    broker = PromptBroker(5)
    asking = asyncio.create_task(broker.ask("t", MENU))
    await asyncio.sleep(0)
    assert broker.prompt is not None
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert broker.prompt is None


def test_printable_removes_control_characters() -> None:
    assert printable("a\x1b[2Jb\r\nc\td\x07ü") == "a[2Jb\ncdü"
