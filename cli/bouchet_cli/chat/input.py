"""Typed input of a chat: several lines, line editing, and a history file that only its owner can read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

HISTORY_LINES = 1000
QUOTES = '"""'


def read_message() -> str | None:
    """Return the typed message, None at the end of input. Ctrl-C discards what has been typed."""
    lines: list[str] = []
    while not lines or is_unfinished(lines):
        try:
            lines.append(input("... " if lines else ">>> "))
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            lines.clear()
    return message_text(lines)


def is_unfinished(lines: Sequence[str]) -> bool:
    """Return whether the message continues on the next line."""
    if lines and lines[0].lstrip().startswith(QUOTES):
        return "\n".join(lines).count(QUOTES) < 2
    return bool(lines) and lines[-1].endswith("\\")


def message_text(lines: Sequence[str]) -> str:
    """Return the message without backslashes at line ends and without the triple quotes."""
    text = "\n".join(lines).strip()
    if text.startswith(QUOTES):
        return text.removeprefix(QUOTES).removesuffix(QUOTES).strip()
    return text.replace("\\\n", "\n")


def history_path(environment: Mapping[str, str]) -> Path:
    """Return the path of the history file, in the XDG state folder."""
    state = environment.get("XDG_STATE_HOME", "")
    home = environment.get("HOME") or str(Path.home())
    # the XDG rules ignore a relative path
    return Path(state if state.startswith("/") else f"{home}/.local/state") / "bouchet" / "chat-history"


@contextmanager
def line_history(path: Path) -> Iterator[None]:
    """Give input() line editing and the history of earlier chats. A history file that cannot be written is ignored."""
    import readline  # importing it writes to the terminal, so only import it where there is one

    readline.set_history_length(HISTORY_LINES)
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        path.chmod(0o600)
        readline.read_history_file(path)
    try:
        yield
    finally:
        with suppress(OSError):
            readline.write_history_file(path)
            path.chmod(0o600)
