"""The project's vocabulary: words that docs/glossary.md replaced occur nowhere in source, docs, help or messages."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Words of an earlier, private vocabulary. The terms that replace them are in docs/glossary.md.
_WORDS = """
    amid amidst anew carrier carriers chore chores deaf desk desks door doors errand errands foresaw guest guests
    heard hereof herein lane lanes lies likeness luggage meter midst misshapen nobody paper papers quieten quietened
    reckon reckoned reckoning reckons rooms said sight smokes somebody spoke stands stray strays tally tallies thrift
    thrifty tidied tidies tidy tidying told unasked unsaid unwelcome wire wires wish wished wishes wording
    """
WITHDRAWN = frozenset(_WORDS.split())
# Common English words that are withdrawn as names: a part of an identifier, not a word of a sentence.
_NAMES = "bell exchange front look looked looker looks mark meet promise room tell tells words"
WITHDRAWN_IN_NAMES = frozenset(_NAMES.split())

# Recorded or third-party text, which is not ours to reword; and this list itself.
NOT_OURS = (
    "tests/contracts/test_vocabulary.py",
    "tests/proxy/recorded/",
    "tests/claude/package",
    "tests/bench/peers/",
    "tests/worker/slurm_output/",
    "demo/models/chatml.jinja",
    "LICENSE",
)
# names of other projects
FOREIGN_NAMES = ("flake8-tidy-imports", "tidy-imports", "problem_mark", "start_mark")
# Names of other programs, which we must spell as they do: a key of Codex's configuration, a reason of Slurm's,
# a sampling parameter of vLLM, an exception of asyncssh.
THIRD_PARTY_NAMES = re.compile(r"\b(wire_api|FrontEndDown|bad_words|KeyExchangeFailed)\b")
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9]*_[A-Za-z0-9_]*|[A-Za-z]+[a-z][A-Z][A-Za-z0-9]*")
# the parts of snake_case, CamelCase and ordinary words
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def our_files() -> list[str]:
    """Return the tracked text files that this project wrote, relative to its root."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [
        name
        for name in names.split("\0")
        if name and not name.startswith(NOT_OURS) and not name.endswith((".lock", ".svg", ".png"))
    ]


def withdrawn_words(text: str) -> list[str]:
    """Return every withdrawn word in `text`, with its line number."""
    found = []
    for number, line in enumerate(THIRD_PARTY_NAMES.sub("", text).splitlines(), 1):
        for name in FOREIGN_NAMES:
            line = line.replace(name, "")
        parts = {part.lower() for part in PART.findall(line)}
        names = {part.lower() for name in IDENTIFIER.findall(line) for part in PART.findall(name)}
        words = (parts & WITHDRAWN) | (names & WITHDRAWN_IN_NAMES)
        found += [f"{number}: {word}" for word in sorted(words)]
    return found


def files_by_folder() -> dict[str, list[str]]:
    """Return our files by their upper two folders: one test for each file would take longer than the search."""
    folders: dict[str, list[str]] = defaultdict(list)
    for name in our_files():
        folders["/".join(name.split("/")[:-1][:2])].append(name)
    return folders


FILES = files_by_folder()


@pytest.mark.parametrize("folder", FILES)
def test_files_use_no_withdrawn_word(folder: str) -> None:
    found = {}
    for name in FILES[folder]:
        path = ROOT / name
        text = path.read_text(encoding="utf-8", errors="ignore") if path.is_file() else ""
        found[name] = withdrawn_words(f"{name}\n{text}")
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the errand_queue", ["1: errand"]),
        ("class PromptDesk:", ["1: desk"]),
        ("take a look", []),
        ("disk_look = 1", ["1: look"]),
        ("desktop, papercut, aboard", []),
    ],
)
def test_withdrawn_words_finds_parts_of_names(text: str, expected: list[str]) -> None:
    assert withdrawn_words(text) == expected
