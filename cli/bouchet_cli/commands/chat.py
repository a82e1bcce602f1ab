"""`bouchet chat`: talk with a model in the terminal, or pipe one question in."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bouchet_cli.chat.conversation import HELP, Conversation, text_of, unfinished
from bouchet_cli.chat.history import history_path, remembered
from bouchet_cli.chat.stream import Completions
from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.select import in_words, ready_one
from bouchet_cli.tools import Tools
from bouchet_cli.view.line import Line, clean
from bouchet_cli.view.screen import Screen

FAREWELLS = ("/exit", "/quit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet chat`."""
    parser.add_argument("--model", metavar="NAME", help="which deployment (default: the newest)")
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")


def run(options: argparse.Namespace, tools: Tools) -> None:
    """A conversation on a terminal; without one the question is read from stdin to its end."""
    talks = sys.stdin.isatty()
    if talks and options.json:
        raise UsageError("--json answers one question: pipe it in, as in `echo Hello | bouchet chat --json`")
    model = ready_one(tools.api.deployments(live=True), options.model).alias
    talk = Talk(Conversation(model, options.system or ""), Completions(tools.settings), tools)
    if talks:
        with remembered(history_path(tools.environment)):
            talk.go_on()
    else:
        talk.once(as_json=options.json)


class Talk:
    """A conversation under way."""

    def __init__(self, conversation: Conversation, completions: Completions, tools: Tools) -> None:
        self.conversation = conversation
        self._completions, self._tools = completions, tools
        self._saved: set[Path] = set()

    @property
    def screen(self) -> Screen:
        """Where it takes place."""
        return self._tools.screen

    @property
    def api(self) -> Api:
        """What knows which models run."""
        return self._tools.api

    def once(self, *, as_json: bool) -> None:
        """One question from stdin."""
        question = sys.stdin.read().strip()
        if not question:
            raise UsageError("there is no question on stdin")
        self.conversation.said(question)
        if not as_json:
            self._answer()
            return
        told = list(self._completions.stream(self.conversation.request()))
        answer = "".join(piece.text for piece in told if not piece.thought)
        thoughts = "".join(piece.text for piece in told if piece.thought)
        self.screen.show_json({"model": self.conversation.model, "answer": answer, "thoughts": thoughts})

    def go_on(self) -> None:
        """Question by question, until the person leaves."""
        self.screen.say(f"talking with {self.conversation.model}; /help lists the commands, Ctrl-D leaves", "dim")
        while (text := _read()) is not None and text not in FAREWELLS:
            try:
                if text.startswith("/"):
                    self._obey(text)
                elif text:
                    self.conversation.said(text)
                    self._answer()
            except CommandError as exc:
                self.screen.fail(str(exc))

    def _answer(self) -> None:
        """Prints the answer as it comes. Ctrl-C stops it; what came so far counts as said."""
        said: list[str] = []
        shown = False
        try:
            for piece in self._completions.stream(self.conversation.request()):
                if piece.thought:
                    shown = self._show_thought(piece.text) or shown
                    continue
                if shown and not said:
                    print("\n")  # the answer begins below the thoughts
                said.append(piece.text)
                shown = True
                print(clean(piece.text), end="", flush=True)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print(" [stopped]", end="")
            shown = True
        finally:
            self.conversation.answered("".join(said))
            if shown:
                print(flush=True)

    def _show_thought(self, text: str) -> bool:
        """On a terminal, dim; in a pipe only the answer counts. Whether something was shown."""
        if self.screen.out.is_terminal:
            self.screen.out.print(Line(clean(text), "dim"), end="")
        return self.screen.out.is_terminal

    def _obey(self, text: str) -> None:
        command, _, argument = text.partition(" ")
        argument = argument.strip()
        match command:
            case "/help":
                self.screen.say(HELP)
            case "/clear":
                self.conversation.turns.clear()
                self.screen.say("forgotten", "dim")
            case "/system":
                self.conversation.system = argument
                self.screen.say("the system prompt is set" if argument else "no system prompt", "dim")
            case "/model":
                self._model(argument)
            case "/save" if argument:
                self._save(Path(argument).expanduser())
            case "/save":
                raise UsageError("name a file: /save FILE")
            case _:
                raise UsageError(f"no command {text}; /help lists them")

    def _model(self, name: str) -> None:
        live = self.api.deployments(live=True)
        if name:
            self.conversation.model = ready_one(live, name).alias
        else:
            for deployment in live:
                self.screen.say(f"  {deployment.alias}  {in_words(deployment)}")
        self.screen.say(f"talking with {self.conversation.model}", "dim")

    def _save(self, path: Path) -> None:
        """A file of another day is not written over; one of this conversation is."""
        if path.exists() and path not in self._saved:
            raise CommandError(f"{path} is there already; name another file")
        try:
            path.write_text(self.conversation.markdown(), encoding="utf-8")
        except OSError as exc:
            raise CommandError(f"{path} cannot be written: {exc.strerror}") from exc
        self._saved.add(path)
        self.screen.say(f"saved to {path}", "dim")


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
