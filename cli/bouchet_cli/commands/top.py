"""`bouchet top`, `bouchet status --watch`: the dashboard's data in the terminal; and `bouchet open`, the dashboard."""

from __future__ import annotations

import argparse
import os
import queue
import select
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from bouchet_cli.client.api import ApiClient, ServerSentEvent
from bouchet_cli.client.deployments import NOTHING_RUNNING
from bouchet_cli.client.errors import CommandError, UnreachableError
from bouchet_cli.context import CommandContext
from bouchet_cli.view.deployments import status_lines
from bouchet_cli.view.live import LiveState, live_lines, path_line
from bouchet_cli.view.screen import OutputStream, Screen, StyledLine, clean

# ages go on without news
REDRAW_S = 1.0
RECONNECT_S = 1.0
# one screen needs the status, and the proxy's list if it comes soon
FIRST_SCREEN_S, FIRST_STATUS_S = 3.0, 30.0
DEFAULT_HEIGHT = 24
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
# a browser is sent to the link from a file, so that no list of processes shows the link
PAGE = '<!doctype html><meta charset="utf-8"><title>bouchet</title><meta http-equiv="refresh" content="0;url={url}">\n'

Lines = Callable[[LiveState, int, int, datetime], list[StyledLine]]


def add_top_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet top`."""
    parser.add_argument("--once", action="store_true", help="print it once and exit, as without a terminal")


def run_top(options: argparse.Namespace, context: CommandContext) -> None:
    """Show the path, deployments, figures and open requests until q or Ctrl-C."""
    if options.once or options.json or not context.screen.out.is_terminal:
        state = read_once(context.api)
        if options.json:
            points = {job: known[-1] for job, known in state.points.items()}
            context.screen.show_json({"status": state.status, "requests": state.requests, "figures": points})
            return
        context.screen.show(*live_lines(state, context.screen.out.width, 10_000, datetime.now(UTC)))
        return
    watch(context.api, context.screen, live_lines)


def watch_status(options: argparse.Namespace, context: CommandContext) -> None:
    """Show the table of `bouchet status` until q or Ctrl-C; without a terminal, each change below the last."""
    if not options.json and context.screen.out.is_terminal:
        watch(context.api, context.screen, _status_screen)
        return
    state = LiveState()
    for event in context.api.live():
        state.take(event.event, event.data)
        if event.event == "status" and options.json:
            context.screen.show_json_lines([event.data])
        elif event.event == "status":
            context.screen.show(*_status_screen(state, context.screen.out.width, 10_000, datetime.now(UTC)), "")


def read_once(api: ApiClient) -> LiveState:
    """Return one state of all parts; without the proxy's list if that does not come soon. Raises CommandError."""
    events: queue.Queue[ServerSentEvent | CommandError] = queue.Queue(maxsize=1000)
    threading.Thread(target=_follow, args=(api, events), daemon=True).start()
    state, began = LiveState(), time.monotonic()
    while state.status is None or state.requests is None:
        limit_s = FIRST_STATUS_S if state.status is None else FIRST_SCREEN_S
        try:
            event = events.get(timeout=max(0.0, limit_s - (time.monotonic() - began)))
        except queue.Empty:
            break
        if isinstance(event, CommandError):
            raise event
        state.take(event.event, event.data)
    return state


def watch(api: ApiClient, screen: Screen, lines: Lines) -> None:
    """Redraw the whole screen with each change, until q or Ctrl-C."""
    events: queue.Queue[ServerSentEvent | CommandError] = queue.Queue(maxsize=1000)
    threading.Thread(target=_follow, args=(api, events), daemon=True).start()
    state = LiveState()
    with _full_screen(sys.stdout), _single_keys(sys.stdin):
        while True:
            _take_all(events, state)
            size = os.get_terminal_size(sys.stdout.fileno())
            # a serial line and some containers' terminals have no size
            width, height = size.columns or screen.out.width, size.lines or DEFAULT_HEIGHT
            _draw(screen.out, lines(state, width, height - 1, datetime.now(UTC)), height)
            if _key_within(sys.stdin, REDRAW_S) in ("q", "Q", "\x1b"):
                return


def _follow(api: ApiClient, events: queue.Queue[ServerSentEvent | CommandError]) -> None:
    """Read the stream into the queue; again after a break."""
    while True:
        try:
            for event in api.live():
                events.put(event)
        except UnreachableError as exc:
            events.put(exc)
        except CommandError as exc:
            events.put(exc)
            return
        time.sleep(RECONNECT_S)


def _take_all(events: queue.Queue[ServerSentEvent | CommandError], state: LiveState) -> None:
    while not events.empty():
        event = events.get_nowait()
        if isinstance(event, CommandError):
            state.problem = clean(str(event))
        else:
            state.take(event.event, event.data)


def _status_screen(state: LiveState, width: int, height: int, now: datetime) -> list[StyledLine]:
    """Return the table of `bouchet status`."""
    info = state.info
    if info is None:
        return live_lines(state, width, height, now)
    shown = [*info.deployments, *info.ended]
    table = status_lines(shown, width, now) if shown else [StyledLine(NOTHING_RUNNING)]
    problem = [StyledLine(state.problem, "yellow")] if state.problem else []
    return [*table[: max(1, height - 2)], *problem, path_line(state, info, width, now)]


def _draw(out: OutputStream, lines: list[StyledLine], height: int) -> None:
    """Draw from the top; what is left of the last screen is cleared."""
    out.print("\x1b[H", end="", raw=True)
    for line in lines[: height - 1]:
        out.print(line, end="\x1b[K\n")
    out.print("\x1b[J", end="", raw=True)


@contextmanager
def _full_screen(stream: TextIO) -> Iterator[None]:
    stream.write(ENTER)
    try:
        yield
    finally:
        stream.write(LEAVE)
        stream.flush()


@contextmanager
def _single_keys(stream: TextIO) -> Iterator[None]:
    """Have keys read without Enter, and not shown."""
    if not stream.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(stream)
    tty.setcbreak(stream)
    try:
        yield
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)


def _key_within(stream: TextIO, seconds: float) -> str:
    """Return the key that was pressed, "" if there was none in that time."""
    if not stream.isatty():
        time.sleep(seconds)
        return ""
    return os.read(stream.fileno(), 1).decode(errors="replace") if select.select([stream], [], [], seconds)[0] else ""


def add_open_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bouchet open`."""
    parser.add_argument("--print", dest="only_print", action="store_true",
                        help="only print the link: for another browser on this machine")  # fmt: skip


def run_open(options: argparse.Namespace, context: CommandContext) -> None:
    """Open the dashboard in the browser, signed in."""
    link = context.api.session_link()
    url = f"{context.settings.api_url.rstrip('/')}{link['path']}"
    if options.json:
        context.screen.show_json({"url": url, "expires_in_s": link["expires_in_s"]})
        return
    if options.only_print or not _open_browser(url, context):
        context.screen.show(url)
        context.screen.note(f"this link opens the dashboard signed in: once, within {link['expires_in_s']} s", "dim")
        return
    context.screen.note("the dashboard opens in your browser; `bouchet open --print` prints the link instead", "dim")


def _open_browser(url: str, context: CommandContext) -> bool:
    """Return whether a browser was started on a file that leads to the link; only this user can read the file."""
    environment = context.environment
    has_display = sys.platform == "darwin" or environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    if not has_display and not environment.get("BROWSER"):
        return False
    folder = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bouchet"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    page = folder / "open.html"
    page.unlink(missing_ok=True)
    with os.fdopen(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(PAGE.format(url=url))
    try:
        return webbrowser.open(page.as_uri())
    except webbrowser.Error:
        return False
