"""The questions of the SSH login, asked here and answered there."""

from __future__ import annotations

import getpass

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import CommandError
from bouchet_cli.client.records import Prompt

from .line import clean
from .screen import Screen


def answer_prompt(api: Api, prompt: Prompt, screen: Screen) -> None:
    """Asks the person and sends the answers. What must not be seen is not echoed, and nothing is kept."""
    if prompt.host:
        screen.say(f"{clean(prompt.host)} asks:", "bold")
    if prompt.title:
        screen.say(prompt.title, "bold")
    responses = [_ask(clean(question), echo, screen) for question, echo in prompt.questions]
    try:
        api.answer(prompt.id, responses)
    except CommandError as exc:
        if exc.kind != "stale_prompt":
            raise
        screen.say("that came too late: the login asks anew")


def _ask(question: str, echo: bool, screen: Screen) -> str:
    text = question if question.endswith((" ", "\n")) else f"{question} "
    if not echo:
        return getpass.getpass(text)
    # not input(text): stdout may be piped
    screen.say(text, end="")
    return input()
