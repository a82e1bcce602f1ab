"""Notifications on this computer's desktop, while a command waits.

Programs get the text in their argv, never as a part of a script or markup that it could end.
"""

from __future__ import annotations

import html
import shutil
import subprocess
import sys
from collections.abc import Mapping

from bouchet_cli.client.settings import without_admin_key
from bouchet_cli.view.screen import Screen, clean

TIMEOUT_S = 5.0
MAX_TEXT = 300
# the words of the script are fixed: what is shown comes as arguments
MAC_SCRIPT = ("on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run")
# any of these leads notify-send to a desktop
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS")


def notify_desktop(title: str, text: str, environment: Mapping[str, str], screen: Screen) -> None:
    """Show a notification; without a desktop ring the terminal's bell. It never fails: the command goes on."""
    title, text = plain(title), plain(text)
    argv = desktop_argv(title, text, environment)
    if argv is not None and _run(argv, environment):
        return
    if screen.err.is_terminal:
        screen.err.print(terminal_sequence(title), end="", raw=True)


def desktop_argv(
    title: str, text: str, environment: Mapping[str, str], platform: str = sys.platform
) -> list[str] | None:
    """Return the command line of the desktop's program, None where there is none."""
    path = environment.get("PATH")
    if platform == "darwin":
        program = shutil.which("osascript", path=path)
        lines = [word for line in MAC_SCRIPT for word in ("-e", line)]
        return [program, *lines, title, text] if program else None
    program = shutil.which("notify-send", path=path)
    if program is None or not any(environment.get(name) for name in DISPLAYS):
        return None
    # the body of a notification is markup, its summary is not
    return [program, "--app-name=bouchet", "--", title, html.escape(text, quote=False)]


def terminal_sequence(title: str) -> str:
    """Return OSC 9, which terminals show as a notification, and the bell. Other terminals print nothing of it."""
    return f"\x1b]9;{title}\x07\x07"


def plain(text: str) -> str:
    """Return the text in one short line without control characters, and without a dash before it."""
    line = " ".join(clean(text).split()).lstrip("-")
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def _run(argv: list[str], environment: Mapping[str, str]) -> bool:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
            env=without_admin_key(environment),
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
