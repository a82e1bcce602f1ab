"""The prompts of a login (Duo menu, passcode, key passphrase), which wait here for a person's answer.

Answers pass through memory once and are neither kept nor logged.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Sequence

from bouchet_core.errors import StalePromptError
from bouchet_core.tunnel import LoginPrompt

from bouchet_gateway.errors import BadRequestError, PromptUnansweredError

# at most one automatic answer a minute, whatever the reason of the new prompt, so that no phone is flooded with pushes
AUTO_INTERVAL_S = 60.0
# "Passcode or option (1-3): ", and not "Second Factor (optional): "
_MENU = re.compile(r"\boptions?\b", re.IGNORECASE)
# ... nor "Password (? for options): ": what is asked for there is no number of a menu
_SECRET, _NUMBERS = re.compile(r"\b(?:password|passphrase|pin)\b", re.IGNORECASE), re.compile(r"\(\d+(?:-\d+)?\)")
NOT_ACCEPTED = "The last answer was not accepted."


def _ignore(prompt: LoginPrompt | None) -> None:
    """Take no notice of a change."""


class PromptBroker:
    """Holds at most one open prompt, between the SSH server that asks and the person who answers."""

    def __init__(
        self,
        timeout_s: float,
        auto_answer: str | None = None,
        on_change: Callable[[LoginPrompt | None], None] = _ignore,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """auto_answer: for a Duo menu ("Passcode or option (1-3):"). on_change: called as a prompt opens or closes."""
        self._timeout_s, self._auto_answer, self._monotonic = timeout_s, auto_answer, monotonic
        self._on_change = on_change
        self._auto_answered_at: float | None = None
        # the questions that this host has asked, each with the titles that stood above it
        self._seen: dict[tuple[tuple[str, bool], ...], set[str]] = {}
        self._restarted = False
        self._last: tuple[tuple[str, bool], ...] | None = None
        self._host, self._note = "", ""
        self._answered = 0
        self._waiting: asyncio.Future[list[str]] | None = None
        self.prompt: LoginPrompt | None = None
        self.asked = 0

    def begin_login(self) -> None:
        """Start a new login; forget the answers of earlier ones."""
        self.asked = 0
        self.begin_host("")

    def begin_host(self, host: str, note: str = "") -> None:
        """Begin the login at that host; answers to a jump host before it are not about this one.

        note: why it may ask at all, shown with each prompt.
        """
        self._host, self._restarted, self._last, self._answered, self._seen = host, False, None, 0, {}
        self._note = note

    def method_started(self) -> None:
        """Note that the server starts a method; after an answer, a new start may mean that the answer was wrong."""
        self._restarted = self._answered > 0

    async def ask(self, title: str, questions: Sequence[tuple[str, bool]]) -> list[str]:
        """Return the answers to these (question, echo) pairs; PromptUnansweredError when they take too long.

        A challenge without questions is only a message (PAM ends with one) and gets an empty answer.
        """
        if not questions:
            return []
        self.asked += 1
        failed = self._is_repeated(title.strip(), tuple(questions))
        automatic = self._automatic_answer(questions)
        if automatic is not None:
            self._answered += 1
            return [automatic]
        return await self._wait_for_answer(self._new_prompt(title, questions, failed))

    def _is_repeated(self, title: str, questions: tuple[tuple[str, bool], ...]) -> bool:
        """Return whether the server asks the same again without a word of its own: the last answer was wrong.

        Some servers restart the method after a wrong answer, others repeat the question. One that says something new
        above it is believed: after Duo's option for passcodes by SMS the same menu follows a right answer.
        """
        again = self._restarted or self._last == questions
        titles = self._seen.setdefault(questions, set())
        failed = again and title in titles
        titles.add(title)
        self._restarted, self._last = False, questions
        return failed

    def answer(self, prompt_id: str, responses: Sequence[str]) -> None:
        """Pass a person's answers on to the server; StalePromptError when that prompt is no longer open."""
        if self.prompt is None or self._waiting is None or self._waiting.done() or prompt_id != self.prompt.id:
            raise StalePromptError("this prompt is no longer open; `bouchet tunnel` shows whether there is a new one")
        if len(responses) != len(self.prompt.questions):
            raise BadRequestError(
                f"the prompt has {len(self.prompt.questions)} question(s), but {len(responses)} answer(s) were given"
            )
        self._waiting.set_result(list(responses))

    async def _wait_for_answer(self, prompt: LoginPrompt) -> list[str]:
        self._waiting = asyncio.get_running_loop().create_future()
        self._set_prompt(prompt)
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = await self._waiting
        except TimeoutError as exc:
            raise PromptUnansweredError(
                f"the login prompt was not answered within {self._timeout_s:.0f} s; run `bouchet tunnel` for a new one"
            ) from exc
        finally:
            self._waiting = None
            self._set_prompt(None)
        self._answered += 1
        return answers

    def _set_prompt(self, prompt: LoginPrompt | None) -> None:
        self.prompt = prompt
        self._on_change(prompt)

    def _new_prompt(self, title: str, questions: Sequence[tuple[str, bool]], failed: bool) -> LoginPrompt:
        notice = [*([self._note] if self._note else []), *([NOT_ACCEPTED] if failed else [])]
        return LoginPrompt(
            id=secrets.token_hex(8),
            title="\n".join([*notice, printable(title)]).strip(),
            questions=tuple(printable(question) for question, _ in questions),
            echo=tuple(echo for _, echo in questions),
            host=self._host,
        )

    def _automatic_answer(self, questions: Sequence[tuple[str, bool]]) -> str | None:
        """Return the automatic answer, if one is set, the question is a menu, and the last one is long enough ago."""
        if self._auto_answer is None or len(questions) != 1 or not is_menu(questions[0][0]):
            return None
        now = self._monotonic()
        if self._auto_answered_at is not None and now - self._auto_answered_at < AUTO_INTERVAL_S:
            return None
        self._auto_answered_at = now
        return self._auto_answer


def is_menu(question: str) -> bool:
    """Return whether a question asks for an option of a menu, as Duo's does, and not for a secret."""
    asks_secret = bool(_SECRET.search(question)) and not _NUMBERS.search(question)
    return bool(_MENU.search(question)) and not asks_secret


def printable(text: str) -> str:
    """Return the text without control characters: a server must not steer the terminal that shows it."""
    return "".join(c for c in text.replace("\r\n", "\n") if c == "\n" or c.isprintable())
