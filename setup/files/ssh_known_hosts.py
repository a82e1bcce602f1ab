"""The host keys that ssh knows for a host: its known_hosts files, and what KnownHostsCommand prints."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence

from .ssh_identities import expand_names

COMMAND_TIMEOUT_S = 60
FILES = ("userknownhostsfile", "globalknownhostsfile")
# of the key that a server presents: its fingerprint, itself, its type
TOKENS_OF_A_KEY = re.compile(r"(?<!%)(?:%%)*%[fKt]")

Note = Callable[[str], object]


def read_known_hosts(lines: Mapping[str, Sequence[str]], tokens: Mapping[str, str], note: Note) -> str:
    """Return the text of all known_hosts files that this user may read, and of the command.

    lines: the lines of each option, as `ssh -G` printed them.
    """
    texts = [_output_of_command(command, tokens, note) for command in lines.get("knownhostscommand", ())[:1]]
    for option in FILES:
        value = next(iter(lines.get(option, ())), "")
        for path in expand_names("" if value.lower() == "none" else value, tokens):
            try:
                texts.append(path.read_text(encoding="utf-8", errors="replace"))
            except OSError:
                continue
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts if text)


def command_argv(command: str, tokens: Mapping[str, str]) -> list[str]:
    """Return the command with its tokens filled in, as ssh runs it to look a host up. Raises ValueError."""
    values = {**tokens, "I": "HOSTNAME"}
    return [re.sub(r"%(.)", lambda found: values.get(found[1], found[0]), word) for word in shlex.split(command)]


def _output_of_command(command: str, tokens: Mapping[str, str], note: Note) -> str:
    """Return what the command prints; ssh runs it at each login, the gateway keeps what it prints now."""
    if command.lower() in ("", "none"):
        return ""
    if TOKENS_OF_A_KEY.search(command):
        note(
            f"KnownHostsCommand `{command}` asks about the key that a server presents, so the gateway cannot run it: "
            "it knows the keys in known_hosts files, and those that `bouchet tunnel --trust` accepts"
        )
        return ""
    try:
        argv = command_argv(command, tokens)
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=COMMAND_TIMEOUT_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.TimeoutExpired) as exc:
        note(f"KnownHostsCommand `{command}` could not be run: {exc}")
        return ""
    if done.returncode:
        note(f"KnownHostsCommand `{command}` ended with status {done.returncode}: {done.stderr.strip()}")
        return ""
    return done.stdout
