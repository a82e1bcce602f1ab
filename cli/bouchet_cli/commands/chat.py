"""`bouchet chat`: chat with a model in the terminal, or pipe one question in."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bouchet_cli.chat.conversation import HELP, ChatClient, Conversation, history_path, line_history, read_message
from bouchet_cli.client.deployments import phase_text, ready_deployment
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.context import CommandContext
from bouchet_cli.view.screen import StyledLine, clean

QUIT = ("/exit", "/quit")
# the argument of /system that removes the system prompt
NO_SYSTEM = "none"


def add_chat_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet chat`."""
    parser.add_argument("question", nargs="*", metavar="QUESTION", help="answer this one question, without a chat")
    parser.add_argument("--model", metavar="NAME", help="deployment to use (default: the newest ready one)")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")


def run_chat(options: argparse.Namespace, context: CommandContext) -> None:
    """Start a chat on a terminal; without one answer a single question from stdin."""
    question = " ".join(options.question)
    interactive = sys.stdin.isatty() and not question
    if interactive and options.json:
        raise UsageError("--json needs a question, as in `bouchet chat --json Hello`")
    model = context.ready_deployment(options.model, wakes=True).alias
    session = ChatSession(Conversation(model, options.system or ""), ChatClient(context.settings), context)
    if interactive:
        with line_history(history_path(context.environment)):
            session.run()
    else:
        session.answer(question or sys.stdin.read().strip(), as_json=options.json)


class ChatSession:
    """A chat in progress."""

    def __init__(self, conversation: Conversation, client: ChatClient, context: CommandContext) -> None:
        self._conversation, self._client, self._context = conversation, client, context
        self._screen = context.screen
        self._saved: set[Path] = set()

    def answer(self, question: str, *, as_json: bool) -> None:
        """Answer one question, of the command line or from stdin."""
        if not question:
            raise UsageError("there is no question on stdin")
        self._conversation.add_question(question)
        if not as_json:
            self._print_answer()
            return
        parts = list(self._client.stream(self._conversation.request()))
        answer = "".join(part.text for part in parts if not part.thinking)
        thoughts = "".join(part.text for part in parts if part.thinking)
        self._screen.show_json({"model": self._conversation.model, "answer": answer, "thoughts": thoughts})

    def run(self) -> None:
        """Answer messages until the user leaves."""
        self._screen.note(f"chatting with {self._conversation.model}; /help lists the commands, Ctrl-D leaves", "dim")
        while (text := read_message()) is not None and text not in QUIT:
            try:
                if text.startswith("/"):
                    self._run_command(text)
                elif text:
                    self._conversation.add_question(text)
                    self._print_answer()
            except CommandError as exc:
                self._screen.error(str(exc))

    def _print_answer(self) -> None:
        """Print the answer as it arrives. Ctrl-C stops it; the text so far is kept in the conversation."""
        answer: list[str] = []
        printed = False
        try:
            for part in self._client.stream(self._conversation.request()):
                if part.thinking:
                    printed = self._print_thinking(part.text) or printed
                    continue
                if printed and not answer:
                    print("\n")  # an empty line between the thinking and the answer
                answer.append(part.text)
                printed = True
                print(clean(part.text), end="", flush=True)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print(" [stopped]", end="")
            printed = True
        finally:
            self._conversation.add_answer("".join(answer))
            if printed:
                print(flush=True)

    def _print_thinking(self, text: str) -> bool:
        """Print the text dim on a terminal, nothing in a pipe. Return whether it was printed."""
        if self._screen.out.is_terminal:
            self._screen.out.print(StyledLine(clean(text), "dim"), end="")
        return self._screen.out.is_terminal

    def _run_command(self, text: str) -> None:
        command, _, argument = text.partition(" ")
        argument = argument.strip()
        match command:
            case "/help":
                self._screen.note(HELP)
            case "/clear":
                self._conversation.turns.clear()
                self._screen.note("new conversation", "dim")
            case "/system":
                self._set_system(argument)
            case "/model":
                self._switch_model(argument)
            case "/save" if argument:
                self._save(Path(argument).expanduser())
            case "/save":
                raise UsageError("name a file: /save FILE")
            case _:
                raise UsageError(f"no command {text}; /help lists them")

    def _set_system(self, text: str) -> None:
        if text:
            self._conversation.system = "" if text == NO_SYSTEM else text
            self._screen.note("system prompt removed" if text == NO_SYSTEM else "system prompt set", "dim")
        elif self._conversation.system:
            self._screen.note(self._conversation.system)
            self._screen.note(f"`/system {NO_SYSTEM}` removes it", "dim")
        else:
            self._screen.note("there is no system prompt; `/system TEXT` sets one", "dim")

    def _switch_model(self, name: str) -> None:
        live = self._context.api.deployments(live=True)
        if name:
            self._conversation.model = ready_deployment(live, name, wakes=True).alias
        else:
            width = max((len(deployment.alias) for deployment in live), default=0)
            for deployment in live:
                current = "*" if deployment.alias == self._conversation.model else " "
                self._screen.note(f"{current} {deployment.alias:{width}}  {phase_text(deployment)}")
        self._screen.note(f"chatting with {self._conversation.model}", "dim")

    def _save(self, path: Path) -> None:
        """Save the conversation; only a file that this chat has saved may be overwritten."""
        if path.exists() and path not in self._saved:
            raise CommandError(f"{path} exists already; name another file")
        try:
            path.write_text(self._conversation.markdown(), encoding="utf-8")
        except OSError as exc:
            raise CommandError(f"{path} cannot be written: {exc.strerror}") from exc
        self._saved.add(path)
        self._screen.note(f"saved to {path}", "dim")
