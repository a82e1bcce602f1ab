"""`make map`: each file of the rooms and the sentence that it begins with, from the files themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("core", "services", "cli", "remote", "apptainer", "setup", "demo")
KINDS = (".py", ".sh", ".sbatch")


def print_map(root: Path, word: str = "") -> None:
    """One line a file; those alone that hold the word."""
    for path, sentence in sentences(root):
        line = f"{path}  {sentence}"
        if word.lower() in line.lower():
            print(line)


def sentences(root: Path) -> Iterator[tuple[str, str]]:
    """Path and first sentence of every file of ours that has code."""
    for room in ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in KINDS and path.is_file() and path.read_text().strip():
                yield str(path.relative_to(root)), first_sentence(path.read_text(), path.suffix)


def first_sentence(text: str, kind: str) -> str:
    """Of a module's docstring, or of a script's first comment."""
    if kind == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    found = re.search(r"^# (.+)$", text, re.M)
    return found[1] if found else ""
