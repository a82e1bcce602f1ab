"""What may follow on a command line that is not finished. Pure but for what the caller looks up."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence

from .arguments import command_parser
from .commands import COMMANDS
from .integrations.claude_env import TIERS
from .legacy_flags import COMMANDS as SEED_COMMANDS

# a word and what it means
Answer = tuple[str, str]
# what a placeholder of --help stands for -> the words there are now
Lookup = Callable[[str], Sequence[Answer]]

BARE_OPTIONS: Sequence[Answer] = (("--model", "which deployment"), ("--help", "all commands"), ("--version", ""))
LOOKED_UP = ("MODEL", "NAME", "PIN")


def answers(words: Sequence[str], lookup: Lookup) -> list[Answer]:
    """What the last word may become. words: those behind `bouchet`; the last one is being typed and may be empty."""
    *before, current = words or [""]
    if before and before[0] in SEED_COMMANDS:
        before = [SEED_COMMANDS[before[0]][0], *before[1:]]
    found = list(_of_command(before, lookup) if before and before[0] in COMMANDS else _of_bouchet(before, lookup))
    return [answer for answer in found if answer[0].startswith(current) and (current or not _is_option(answer[0]))]


def _of_bouchet(before: Sequence[str], lookup: Lookup) -> Iterator[Answer]:
    if before[-1:] == ["--model"]:
        yield from lookup("NAME")
    else:
        yield from COMMANDS.items()
        yield from BARE_OPTIONS
        yield from ((flag, COMMANDS[words[0]]) for flag, words in SEED_COMMANDS.items() if words[0] in COMMANDS)


def _of_command(before: Sequence[str], lookup: Lookup) -> Iterator[Answer]:
    parser: argparse.ArgumentParser = command_parser(before[0])
    used: list[str] = []
    waiting: argparse.Action | None = None
    for word in before[1:]:
        waiting = None if waiting else _option(parser, word)
        if waiting is not None:
            used.append(word)
            waiting = waiting if waiting.nargs != 0 else None
        elif not _is_option(word):
            parser = _inner(parser).get(word, parser)
    if waiting is not None:
        yield from _values(waiting, lookup)
        return
    yield from _positionals(parser, lookup)
    yield from _options(parser, used)


def _options(parser: argparse.ArgumentParser, used: Sequence[str]) -> Iterator[Answer]:
    for action in parser._actions:  # argparse has no public way to ask
        if action.help != argparse.SUPPRESS and not set(action.option_strings) & set(used):
            yield from ((word, action.help or "") for word in action.option_strings if word.startswith("--"))


def _positionals(parser: argparse.ArgumentParser, lookup: Lookup) -> Iterator[Answer]:
    for action in parser._actions:
        if not action.option_strings and action.help != argparse.SUPPRESS:
            yield from _values(action, lookup)


def _values(action: argparse.Action, lookup: Lookup) -> Iterator[Answer]:
    """The words that an option or a place takes."""
    if isinstance(action, argparse._SubParsersAction):
        yield from ((choice.dest, choice.help or "") for choice in action._choices_actions)
    elif action.choices is not None:
        yield from ((str(choice), "") for choice in action.choices)
    elif action.metavar in LOOKED_UP:
        yield from lookup(str(action.metavar))
    elif action.metavar == "TIERS":
        yield from ((tier, "") for tier in TIERS)


def _option(parser: argparse.ArgumentParser, word: str) -> argparse.Action | None:
    return next((action for action in parser._actions if word in action.option_strings), None)


def _inner(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The commands inside a command (`bouchet keys add`)."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found[0].choices if found else {}


def _is_option(word: str) -> bool:
    return word.startswith("-")
