"""The prompt desk: questions of the SSH server (Duo menu, passcode, push) wait here for a person's answer.

Answers pass through memory once and are neither kept nor logged.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence

from bouchet_core.errors import StalePromptError
from bouchet_core.tunnel import LoginPrompt

from bouchet_gateway.errors import BadRequestError, PromptUnansweredError

# a phone is never flooded: one automatic answer a minute at most, whatever the reason for asking again
AUTO_INTERVAL_S = 60.0
NOT_ACCEPTED = "The last answer was not accepted."


class PromptBroker:
    """At most one open prompt at a time.

    auto: answer to give by itself to a Duo menu ("Passcode or option (1-3):"), None asks a person every time.
    """

    def __init__(
        self, timeout_s: float, auto: str | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeout_s, self._auto, self._monotonic = timeout_s, auto, monotonic
        self._auto_at: float | None = None
        self._again = False
        self._last: tuple[tuple[str, bool], ...] | None = None
        self._host = ""
        self._answered = 0
        self._waiting: asyncio.Future[list[str]] | None = None
        self.prompt: LoginPrompt | None = None
        self.asked = 0
        self.on_change: Callable[[LoginPrompt | None], None] = lambda prompt: None

    def begin(self) -> None:
        """A new login starts: earlier answers say nothing about it."""
        self.asked = 0
        self.begin_with("")

    def begin_with(self, host: str) -> None:
        """It goes on with that host; answers to one before it (a jump host) say nothing about this one."""
        self._host, self._again, self._last, self._answered = host, False, None, 0

    def method_started(self) -> None:
        """The server starts the method (again); after an answer that means the answer was wrong."""
        self._again = self._answered > 0

    async def ask(self, title: str, questions: Sequence[tuple[str, bool]]) -> list[str]:
        """The answers to these (question, echo) pairs; PromptUnansweredError when nobody gives them in time.

        A challenge without questions only tells something (PAM ends with one) and is answered with nothing.
        """
        if not questions:
            return []
        self.asked += 1
        # some servers start anew after a wrong answer, others just ask the same again
        self._again = self._again or self._last == tuple(questions)
        self._last = tuple(questions)
        automatic = self._automatic(questions)
        if automatic is not None:
            self._answered += 1
            return [automatic]
        return await self._park(self._prompt(title, questions))

    def answer(self, prompt_id: str, responses: Sequence[str]) -> None:
        """Hands a person's answers to the server; StalePromptError when that prompt is no longer open."""
        if self.prompt is None or self._waiting is None or self._waiting.done() or prompt_id != self.prompt.id:
            raise StalePromptError("this prompt is no longer open; `bouchet tunnel` shows whether there is a new one")
        if len(responses) != len(self.prompt.questions):
            raise BadRequestError(
                f"the server asked {len(self.prompt.questions)} question(s), got {len(responses)} answers"
            )
        self._waiting.set_result(list(responses))

    async def _park(self, prompt: LoginPrompt) -> list[str]:
        self._waiting = asyncio.get_running_loop().create_future()
        self._show(prompt)
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = await self._waiting
        except TimeoutError as exc:
            raise PromptUnansweredError(
                f"nobody answered the login prompt within {self._timeout_s:.0f} s; `bouchet tunnel` asks again"
            ) from exc
        finally:
            self._waiting, self._again = None, False
            self._show(None)
        self._answered += 1
        return answers

    def _show(self, prompt: LoginPrompt | None) -> None:
        self.prompt = prompt
        self.on_change(prompt)

    def _prompt(self, title: str, questions: Sequence[tuple[str, bool]]) -> LoginPrompt:
        said = [NOT_ACCEPTED] if self._again else []
        return LoginPrompt(
            id=secrets.token_hex(8),
            title="\n".join([*said, printable(title)]).strip(),
            questions=tuple(printable(question) for question, _ in questions),
            echo=tuple(echo for _, echo in questions),
            host=self._host,
        )

    def _automatic(self, questions: Sequence[tuple[str, bool]]) -> str | None:
        """The automatic answer, if it is on, the question is a menu, and the last one is long enough ago."""
        if self._auto is None or len(questions) != 1 or "option" not in questions[0][0].lower():
            return None
        now = self._monotonic()
        if self._auto_at is not None and now - self._auto_at < AUTO_INTERVAL_S:
            return None
        self._auto_at = now
        return self._auto


def printable(text: str) -> str:
    """The text without control characters: a server must not steer the terminal that shows it."""
    return "".join(c for c in text.replace("\r\n", "\n") if c == "\n" or c.isprintable())
