"""Long sessions of Claude Code side by side over a link that is cut, part of `make soak`.

BOUCHET_TURNS: turns with a tool in each session (20); BOUCHET_CLIENTS: sessions at once (3).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.stack.clients.claude_code import ClaudeCode, Report, call, exported
from tests.stack.conftest import SCRIPTED
from tests.stack.faults.test_link_cuts import CLAUDE_PAUSE_S
from tests.stack.harness import Stack, say
from tests.stack.link_faults import kill_sshd, paused
from tests.waiting import wait_for

TURNS, CLIENTS = int(os.environ.get("BOUCHET_TURNS", "20")), int(os.environ.get("BOUCHET_CLIENTS", "3"))
SESSION_TIMEOUT_S = 1500.0
# numbers before each call, so that a turn lasts for seconds
NUMBERS = 60
# within so many seconds of a turn a cut comes
SPREAD_S = 3.0


def pause_long(stack: Stack) -> None:
    with paused(stack):
        time.sleep(CLAUDE_PAUSE_S)


# what happens when the first of the sessions has come so far
CUTS: tuple[tuple[float, Callable[[Stack], None]], ...] = ((0.25, pause_long), (0.6, kill_sshd))


class Session:
    """One person's session: every turn appends its number to a file by a tool."""

    def __init__(self, folder: Path, environ: dict[str, str], threads: ThreadPoolExecutor) -> None:
        self.claude = ClaudeCode(folder, environ, timeout_s=SESSION_TIMEOUT_S)
        self._written = self.claude.work / "turns.txt"
        steps = [f"COUNT[{NUMBERS}] {self._append(number)}" for number in range(1, TURNS + 1)]
        prompt = " THEN ".join([*steps, "SAY[all turns are done]"])
        self.report: Future[Report] = threads.submit(self.claude.run, prompt)

    def _append(self, number: int) -> str:
        return call("Bash", command=f"echo {number} >> {self._written}", description=f"turn {number}")

    @property
    def numbers(self) -> list[int]:
        """The numbers that the tool has written so far."""
        return [int(line) for line in self._written.read_text().split()] if self._written.exists() else []

    def problem(self) -> str:
        """Return what went wrong in the whole session, '' for nothing."""
        report = self.report.result()
        errors = [line for line in report.lines if "API Error" in json.dumps(line)]
        if report.status != 0 or errors:
            return f"status {report.status}, {errors}, {report.stderr[-500:]}"
        if self.numbers != [*range(1, TURNS + 1)]:
            return f"the tool has run for {self.numbers}"
        calls = [block for block in report.blocks("tool_use") if block["name"] == "Bash"]
        if len(calls) != TURNS:
            return f"{len(calls)} calls"
        return "" if "all turns are done" in report.result else f"the answer is {report.result!r}"


@pytest.mark.timeout(2 * SESSION_TIMEOUT_S)
def test_long_sessions_show_no_error(stack: Stack, scripted: dict[str, Any], tmp_path: Path) -> None:
    environ = exported(stack, SCRIPTED)
    with ThreadPoolExecutor(CLIENTS) as threads:
        sessions = [Session(tmp_path / str(number), environ, threads) for number in range(CLIENTS)]
        for share, cut in CUTS:
            wait_for(lambda: has_come(sessions, share), SESSION_TIMEOUT_S, pause_s=0.2)  # noqa: B023
            time.sleep(random.uniform(0, SPREAD_S))
            say(f"long sessions: {cut.__name__} at turns {[len(one.numbers) for one in sessions]}")
            cut(stack)
        problems = {number: one.problem() for number, one in enumerate(sessions)}
    for number, problem in problems.items():
        say(f"session {number + 1} of {CLIENTS}: {problem or 'whole'}")
    assert not any(problems.values()), problems


def has_come(sessions: list[Session], share: float) -> bool:
    """Return whether the first session has come so far, or all have ended."""
    return max(len(one.numbers) for one in sessions) >= share * TURNS or all(one.report.done() for one in sessions)
