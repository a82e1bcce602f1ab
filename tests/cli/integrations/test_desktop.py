"""Notifications of the desktop: the argv of real programs on a PATH of the test's, and the terminal's own sequence."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from bouchet_cli.integrations.desktop import desktop_argv, notify_desktop, terminal_sequence
from bouchet_cli.view.screen import Screen

HOSTILE = '-x "quoted" $(id) `id` \\ <b>&amp;</b>\n\x1b]9;other\x07 end'
# writes its argv and whether it was given the key
RECORDER = """#!/usr/bin/env python3
import json, os, sys
with open({log!r}, "w") as file:
    json.dump([sys.argv[1:], "BOUCHET_ADMIN_KEY" in os.environ], file)
sys.exit({status})
"""


def program(folder: Path, name: str, status: int = 0) -> Path:
    """Make a program of that name; return the file that it writes."""
    log = folder / f"{name}.json"
    path = folder / name
    path.write_text(RECORDER.format(log=str(log), status=status))
    path.chmod(0o755)
    return log


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{folder}:/usr/bin:/bin", "DISPLAY": ":0", "BOUCHET_ADMIN_KEY": "secret", **more}


def test_notify_send_gets_title_and_escaped_text_as_arguments(tmp_path: Path) -> None:
    log = program(tmp_path, "notify-send")
    notify_desktop("qwen is ready", HOSTILE, environment(tmp_path), Screen({}))
    argv, has_key = json.loads(log.read_text())
    assert argv[:3] == ["--app-name=bouchet", "--", "qwen is ready"] and not has_key
    assert argv[3] == 'x "quoted" $(id) `id` \\ &lt;b&gt;&amp;amp;&lt;/b&gt; ]9;other end'


def test_osascript_gets_the_text_as_argument_of_a_fixed_script(tmp_path: Path) -> None:
    program(tmp_path, "osascript")
    argv = desktop_argv("title", HOSTILE, environment(tmp_path), "darwin")
    assert argv is not None and argv[-2:] == ["title", HOSTILE]
    assert not any("quoted" in word for word in argv[:-1])
    assert desktop_argv("t", "x", {"PATH": "/nonexistent"}, "darwin") is None


@pytest.mark.parametrize("missing", ["DISPLAY", "program", "status"])
def test_terminal_is_rung_where_no_desktop_shows_it(
    tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    if missing != "program":
        program(tmp_path, "notify-send", status=1)
    own: Mapping[str, str] = environment(tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin")
    if missing == "program":
        own = {**own, "PATH": str(tmp_path)}
    if missing == "DISPLAY":
        own = {name: value for name, value in own.items() if name != "DISPLAY"}
    notify_desktop("ready\x07\x1b[2J", "text", own, Screen({"TERM": "xterm"}))
    assert terminal.getvalue() == terminal_sequence("ready[2J") == "\x1b]9;ready[2J\x07\x07"


def test_without_desktop_and_terminal_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notify_desktop("ready", "text", {"PATH": str(tmp_path)}, Screen({}))
    assert capsys.readouterr() == ("", "")


def test_program_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouchet_cli.integrations.desktop.TIMEOUT_S", 0.3)
    path = tmp_path / "notify-send"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    notify_desktop("ready", "text", environment(tmp_path), Screen({}))
