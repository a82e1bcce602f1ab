"""`bouchet chat`: talk with a model in the terminal, or pipe one question in."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bouchet_cli.api import Api
from bouchet_cli.choice import ready_one
from bouchet_cli.completions import Completions
from bouchet_cli.conversation import HELP, Conversation, text_of, unfinished
from bouchet_cli.errors import CommandError, UsageError
from bouchet_cli.line import clean
from bouchet_cli.screen import Screen
from bouchet_cli.tools import Tools


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet chat`."""
    parser.add_argument("--model", metavar="NAME", help="which deployment (default: the newest)")
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """A conversation on a terminal; without one the question is read from stdin to its end."""
    api, screen = tools.api, tools.screen
    model = ready_one(api.deployments(live=True), options.model).alias
    conversation = Conversation(model, options.system or "")
    completions = Completions(tools.settings)
    if sys.stdin.isatty():
        _talk(conversation, completions, api, screen)
    else:
        _once(conversation, completions)


def _once(conversation: Conversation, completions: Completions) -> None:
    question = sys.stdin.read().strip()
    if not question:
        raise UsageError("there is no question on stdin")
    conversation.said(question)
    _print_answer(conversation, completions)


def _talk(conversation: Conversation, completions: Completions, api: Api, screen: Screen) -> None:
    screen.say(f"talking with {conversation.model}; /help lists the commands, Ctrl-D leaves", "dim")
    while (text := _read()) is not None:
        try:
            if text in ("/exit", "/quit"):
                return
            if text.startswith("/"):
                _obey(text, conversation, api, screen)
            elif text:
                conversation.said(text)
                _print_answer(conversation, completions)
        except CommandError as exc:
            screen.fail(str(exc))


def _read() -> str | None:
    """What the person typed, None at the end of input. Ctrl-C begins anew."""
    lines: list[str] = []
    while not lines or unfinished(lines):
        try:
            lines.append(input("... " if lines else ">>> "))
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            lines.clear()
    return text_of(lines)


def _print_answer(conversation: Conversation, completions: Completions) -> None:
    """Prints the answer as it comes. Ctrl-C stops it; what came so far counts as said."""
    said: list[str] = []
    try:
        for piece in completions.stream(conversation.request()):
            said.append(piece)
            print(clean(piece), end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        print(" [stopped]", end="")
    finally:
        conversation.answered("".join(said))
        if said:
            print(flush=True)


def _obey(text: str, conversation: Conversation, api: Api, screen: Screen) -> None:
    command, _, argument = text.partition(" ")
    argument = argument.strip()
    match command:
        case "/help":
            screen.say(HELP)
        case "/clear":
            conversation.turns.clear()
        case "/system":
            conversation.system = argument
        case "/model":
            if argument:
                conversation.model = ready_one(api.deployments(live=True), argument).alias
            screen.say(f"talking with {conversation.model}")
        case "/save" if argument:
            _save(Path(argument).expanduser(), conversation, screen)
        case _:
            raise UsageError(f"no command {text}; /help lists them")


def _save(path: Path, conversation: Conversation, screen: Screen) -> None:
    try:
        path.write_text(conversation.markdown(), encoding="utf-8")
    except OSError as exc:
        raise CommandError(f"{path} cannot be written: {exc.strerror}") from exc
    screen.say(f"saved to {path}")
