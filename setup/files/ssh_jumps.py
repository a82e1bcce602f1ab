"""Jump hosts as ssh names them: ProxyJump, and the forms of ProxyCommand that mean a jump or nothing at all.

The gateway's container runs no programs of the person's, so a ProxyCommand is understood or refused, never run.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

Place = tuple[str, int]

# options of ssh with a value, and those without (ssh(1))
WITH_VALUE = "BbcDEeFIiJLlmOoPpQRSWw"
WITHOUT_VALUE = "46AaCfGgKkMNnqsTtVvXxYy"
# plain TCP programs, and what they accept before host and port without changing where they connect to
NETCATS = ("nc", "ncat", "netcat", "nc.openbsd", "nc.traditional", "connect-tcp")
NETCAT_HARMLESS = re.compile(r"-([46nNrtuUvz]*v?[46nNrtvz]*|-no-shutdown|-recv-only|-send-only)")
NETCAT_WITH_VALUE = ("-w", "-q", "-i", "-G", "-W", "--wait", "--idle-timeout")
JUMP_ADVICE = "if it means a jump over another host, write `ProxyJump HOST` in its place in ~/.ssh/config"


@dataclass(frozen=True)
class ProxyCommandJump:
    """A connection that needs no program. arguments: of ssh to the jump host, None for a direct connection."""

    arguments: tuple[str, ...] | None
    address: Place


def jump_arguments(jumps: str) -> list[str]:
    """Return ssh's arguments for the last of `[user@]host[:port],...`; the earlier ones are its own jump hosts."""
    *before, last = jumps.split(",")
    user, _, rest = last.removeprefix("ssh://").rpartition("@")
    host, port = split_port(rest)
    options = ["-J", ",".join(before)] if before else []
    options += ["-l", user] if user else []
    options += ["-p", port] if port else []
    return [*options, host]


def split_port(text: str) -> tuple[str, str]:
    """Return host and port of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(\w*))?", text)
    if bracketed:
        return bracketed[1], bracketed[2] or ""
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, ""


def parse_proxy_command(command: str, place: Place, alias: str, user: str) -> ProxyCommandJump | str:
    """Return what a ProxyCommand does, or why the gateway cannot do it.

    place: HostName and Port of the host that it leads to; user: whom to log in as there.
    """
    tokens = {"%h": place[0], "%p": str(place[1]), "%n": alias, "%r": user, "%%": "%"}
    filled = _expand_variables(re.sub(r"%[hpnr%]", lambda match: tokens[match[0]], command))
    try:
        words = shlex.split(filled)
    except ValueError as exc:
        return f"it is no command line ({exc})"
    words = _without_redirections(words)
    while words and words[0] in ("exec", "command", "env", "nohup"):
        words = words[1:]
    if len(words) == 3 and PurePath(words[0]).name in ("sh", "bash", "zsh", "dash") and words[1] in ("-c", "-lc"):
        return parse_proxy_command(words[2].replace("%", "%%"), place, alias, user)
    # a word with spaces was quoted: it is the remote shell's
    if not words or any(re.search(r"[|&;<>`]|\$\(", word) for word in words if " " not in word):
        return f"it is more than one command; {JUMP_ADVICE}"
    program = PurePath(words[0]).name.removesuffix(".exe")
    if program == "ssh":
        return _parse_ssh(words[1:])
    direct = _netcat_target(words)
    if isinstance(direct, str):
        return direct
    if direct is not None:
        return ProxyCommandJump(None, direct)
    return (
        f"the program {program} is not in the gateway's container; {JUMP_ADVICE}, "
        "or name a login node that ssh reaches without it"
    )


def _expand_variables(command: str) -> str:
    """Replace what the person's shell, which ssh lets run the command, would: `$HOME`, `${VAR}`, `~/` before a path.

    Not within single quotes. Settings such as `-o IdentityFile=~/x` are ssh's own to expand.
    """
    parts = re.split(r"('[^']*')", command)
    home = str(Path("~").expanduser())
    return "".join(
        part if part.startswith("'") else re.sub(r"(?<!\S)~(?=/)", home, os.path.expandvars(part)) for part in parts
    )


def _without_redirections(words: Sequence[str]) -> list[str]:
    """Return the words without `2>/dev/null` and `2> /dev/null`."""
    kept: list[str] = []
    skips = False
    for word in words:
        if skips:
            skips = False
        elif re.fullmatch(r"2>>?", word):
            skips = True
        elif not re.fullmatch(r"2>>?(&1|/dev/null|\S+)", word):
            kept.append(word)
    return kept


def _parse_ssh(words: Sequence[str]) -> ProxyCommandJump | str:
    """Parse the arguments of an ssh that forwards its own input and output."""
    options, host, remote, target = _split_ssh(words)
    if not host:
        return f"its ssh names no host; {JUMP_ADVICE}"
    if target:
        name, port = split_port(target)
        if not port.isdigit():
            return f"`-W {target}` names no port; {JUMP_ADVICE}"
        return ProxyCommandJump((*options, host), (name, int(port)))
    remote = _without_redirections([word for part in remote for word in _split_quietly(part)])
    while remote and remote[0] in ("exec", "--"):
        remote = remote[1:]
    place = _netcat_target(remote)
    if isinstance(place, tuple):
        return ProxyCommandJump((*options, host), place)
    return place or f"its ssh runs `{' '.join(remote)}` on {host}, which is no plain connection; {JUMP_ADVICE}"


def _split_quietly(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return [text]


def _split_ssh(words: Sequence[str]) -> tuple[list[str], str, list[str], str]:
    """Return options to ask ssh with, host, remote command, and the value of -W."""
    options: list[str] = []
    host, target = "", ""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            continue
        if not word.startswith("-") or word == "-":
            if host:
                return options, host, [word, *rest], target
            host = word
            continue
        for place, letter in enumerate(word[1:], 2):
            if letter in WITHOUT_VALUE:
                continue
            value = word[place:] or (rest.pop(0) if rest else "")
            if letter == "W":
                target = value
            elif letter in WITH_VALUE:
                options += [f"-{letter}", value]
            break
    return options, host, [], target


def _netcat_target(words: Sequence[str]) -> Place | str | None:
    """Return where a plain TCP program connects to; a sentence where it goes through a proxy, None for other programs.

    `socat - TCP:host:port` is one, too.
    """
    if not words:
        return None
    program = PurePath(words[0]).name
    if program == "socat":
        found = re.search(r"TCP[46]?(?:-CONNECT)?:(\[[^\]]+\]|[^:,]+):(\d+)", " ".join(words), re.IGNORECASE)
        return (found[1].strip("[]"), int(found[2])) if found else None
    if program not in NETCATS:
        return None
    rest = list(words[1:])
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in NETCAT_WITH_VALUE and rest:
            rest.pop(0)
        elif not (NETCAT_HARMLESS.fullmatch(option) or re.fullmatch(r"-[wqiG]\d+", option)):
            return (
                f"`{program} {option}` goes through a proxy, which the gateway does not speak to; {JUMP_ADVICE}, "
                "or use a network from which the login node is reached directly"
            )
    if len(rest) >= 2 and rest[1].isdigit():
        return rest[0].strip("[]"), int(rest[1])
    return None
