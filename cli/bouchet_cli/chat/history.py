"""What was typed in earlier chats: arrow keys bring it back. The file is the person's alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

LINES = 1000


def history_path(environment: Mapping[str, str]) -> Path:
    """Where it is kept, by the XDG rules."""
    state = environment.get("XDG_STATE_HOME", "")
    home = environment.get("HOME") or str(Path.home())
    # a relative path counts as unset
    return Path(state if state.startswith("/") else f"{home}/.local/state") / "bouchet" / "chat-history"


@contextmanager
def remembered(path: Path) -> Iterator[None]:
    """input() with editing and the lines of earlier times; those of now are kept. A disk that says no is no error."""
    import readline  # it writes to a terminal when it is loaded, so only where there is one

    readline.set_history_length(LINES)
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
