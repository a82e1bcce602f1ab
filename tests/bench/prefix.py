"""How much of a Claude Code session's prompts vLLM takes from its prefix cache, by its own counters."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.stack.clients.claude_code import ClaudeCode, call, exported
from tests.stack.harness import Stack
from tests.stack.node import Node

from .chain import MODEL
from .figures import Figure

TURNS = 6
# of a prompt of 13,000 tokens: with a tool's result a turn adds up to 2 %
MISSED_LATER, MISSED_AT_FIRST = 2.0, 20.0


def prefix_cache(stack: Stack) -> list[Figure]:
    """Measure the share of prompt tokens that had to be computed, in percent."""
    environ = exported(stack, MODEL)
    with tempfile.TemporaryDirectory() as folder, Node(stack, stack.deployment(MODEL)) as node:
        claude = ClaudeCode(Path(folder), environ)
        note = claude.write("note.txt", "one\n")
        session = claude.run("SAY[I begin.]").session
        before = node.counters()
        for turn in range(TURNS):
            read = call("Read", file_path=str(note))
            claude.run(f"{read} THEN SAY[that was turn {turn}]", "--resume", session)
        later = node.counters()
        claude.run("SAY[another one]")
        other = node.counters()
    missed = [100 * (1 - share) for share in (later.since(before), other.since(later))]
    note_text = f"{later.queries - before.queries:,.0f} prompt tokens in {2 * TURNS} requests"
    return [
        Figure("Claude Code prompt not from the prefix cache, after turn 1", missed[0], "%", MISSED_LATER, note_text),
        Figure("the same, first turn of a second conversation there", missed[1], "%", MISSED_AT_FIRST),
    ]
