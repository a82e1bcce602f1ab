"""Long runs over a link that is cut, part of `make soak`; test_link_cuts.py has the short forms.

BOUCHET_SESSIONS: how many sessions of Claude Code (20); BOUCHET_ASLEEP_S: how long the gateway sleeps (300).
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

from tests.stack.clients.claude_code import ClaudeCode, Report, call, exported
from tests.stack.conftest import SCRIPTED
from tests.stack.faults.test_link_cuts import CLAUDE_PAUSE_S, TEXT
from tests.stack.harness import Stack, say
from tests.stack.job_faults import Stream
from tests.stack.link_faults import LONG, paused, text_of

SESSIONS = int(os.environ.get("BOUCHET_SESSIONS", "20"))
ASLEEP_S = float(os.environ.get("BOUCHET_ASLEEP_S", "300"))
# a session of this model takes about so long from its start to its last event
SESSION_S = 20.0


def run_with_a_pause(stack: Stack, claude: ClaudeCode, prompt: str) -> Report:
    """Run a session; the link pauses at a random moment of it."""
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(claude.run(prompt)))
    thread.start()
    time.sleep(random.uniform(0.5, SESSION_S))
    with paused(stack):
        time.sleep(CLAUDE_PAUSE_S)
    thread.join()
    return reports[0]


def test_sessions_of_claude_code_show_no_error(stack: Stack, scripted: dict[str, Any], tmp_path: Path) -> None:
    environ, failed = exported(stack, SCRIPTED), list[str]()
    for number in range(SESSIONS):
        claude = ClaudeCode(tmp_path / str(number), environ)
        target = claude.work / "hello.txt"
        report = run_with_a_pause(stack, claude, call("Write", file_path=str(target), content=TEXT) + f" {LONG}")
        errors = [line for line in report.lines if "API Error" in json.dumps(line)]
        wrong = report.status != 0 or errors or not target.exists() or target.read_text() != TEXT
        say(f"session {number + 1} of {SESSIONS}: {'failed' if wrong else 'whole'}")
        if wrong:
            failed.append(f"session {number + 1}: status {report.status}, {errors}, {report.stderr[-500:]}")
    assert not failed, failed


def test_answer_goes_on_after_minutes_without_a_link(stack: Stack, scripted: dict[str, Any]) -> None:
    """The laptop sleeps for longer than the SSH server keeps a connection of a silent client."""
    uncut = Stream(stack, SCRIPTED, LONG)
    assert uncut.last(timeout_s=120) == "message_stop"
    stream = Stream(stack, SCRIPTED, LONG).under_way()
    with paused(stack):
        time.sleep(ASLEEP_S)
    assert stream.last(timeout_s=240) == "message_stop"
    assert text_of(stream.body) == text_of(uncut.body)
