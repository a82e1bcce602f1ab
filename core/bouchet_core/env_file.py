"""The grammar of `.env`, for `make` and for the command line. Standard library only.

A line is `KEY=value`. Empty lines and lines that begin with `#` are skipped. One pair of quotes around a value is
removed. `export`, blanks around `=` and a key that is set twice are errors: shells and Compose read them differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvLineError(ValueError):
    """A line is not `KEY=value`. `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        self.line, self.problem = line, problem
        super().__init__(f"line {line}: {problem}")


@dataclass(frozen=True)
class EnvEntry:
    """One setting, with the number of its line."""

    line: int
    key: str
    value: str


def parse_env_lines(text: str) -> list[EnvEntry]:
    """Parse the text of an env file, in its order. Raises EnvLineError for the first line that does not parse."""
    entries: list[EnvEntry] = []
    first: dict[str, int] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        entry = _parse_line(line, number)
        if entry.key in first:
            raise EnvLineError(number, f"{entry.key} is set twice (first in line {first[entry.key]}); keep one")
        first[entry.key] = number
        entries.append(entry)
    return entries


def _parse_line(line: str, number: int) -> EnvEntry:
    if line.startswith("export "):
        raise EnvLineError(number, "has `export`; write KEY=value (`set -a; source .env` exports all)")
    key, equals, value = line.partition("=")
    if key != key.strip() or value != value.strip():
        raise EnvLineError(number, f"has a blank around `=`; write {key.strip()}={value.strip()}")
    if not equals or not KEY.fullmatch(key):
        word = line.split()[0].split("=")[0].rstrip(":")
        raise EnvLineError(number, f"`{word} ...` is not KEY=value; write {word}=value")
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return EnvEntry(number, key, value)
