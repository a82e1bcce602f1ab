"""Where output goes: results to stdout, everything about them to stderr, so that results can be piped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from .render import clean


class Pipe(Console):
    """A console that leaves it to its program what a reader's leaving means."""

    def on_broken_pipe(self) -> None:
        """Called by rich where a write fails, in the midst of handling the failure."""
        raise


class Screen:
    """stdout and stderr of this command. Colours only on a terminal and without NO_COLOR."""

    def __init__(self) -> None:
        self.out = Pipe(highlight=False, markup=False, emoji=False)
        self.err = Pipe(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def interactive(self) -> bool:
        """Whether a person sits at both ends."""
        return sys.stdin.isatty() and self.err.is_terminal

    def show(self, *lines: Text | str) -> None:
        """Lines of the result."""
        for line in lines:
            self.out.print(line if isinstance(line, Text) else Text(clean(line)), soft_wrap=True)

    def show_json(self, value: Any) -> None:
        """The result for programs."""
        print(json.dumps(value, ensure_ascii=False, indent=2))

    def show_json_lines(self, values: Iterable[Any]) -> None:
        """A stream of results, one a line."""
        for value in values:
            print(json.dumps(value, ensure_ascii=False), flush=True)

    def say(self, text: str, style: str = "") -> None:
        """A word beside the result."""
        self.err.print(Text(clean(text), style), soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning."""
        self.err.print(Text("warning: ", "yellow").append(clean(text)), soft_wrap=True)

    def fail(self, text: str) -> None:
        """The error that ends the command: one line."""
        self.err.print(Text("error: ", "bold red").append(" ".join(clean(text).split())), soft_wrap=True)
