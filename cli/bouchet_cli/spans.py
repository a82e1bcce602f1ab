"""Times, token counts and models as people type them: 6h, 90m, 2d; 64k; ORG/NAME@REVISION. Pure.

Those of times and tokens are used as argparse types.
"""

from __future__ import annotations

import argparse
import re
from urllib.parse import unquote, urlsplit

from .client.errors import UsageError

_MINUTES = {"m": 1, "h": 60, "d": 24 * 60, "w": 7 * 24 * 60}
_TOKENS = {"": 1, "k": 1 << 10, "m": 1 << 20}
_WALLTIME = re.compile(r"^([0-9]{1,3}-)?[0-9]{1,3}(:[0-5]?[0-9]){0,2}$")
# in the address of a page of a revision, before it
_BEFORE_REVISION = ("tree", "blob", "resolve", "commit")
_ID_PARTS = 2


def parse_minutes(text: str) -> int:
    """Return the minutes of `45`, `90m`, `2h` or `1d`; `1h30m` too. Raises argparse.ArgumentTypeError."""
    if text.isascii() and text.isdigit():
        return int(text)
    parts = re.findall(r"([0-9]+)([mhdw])", text.lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.lower():
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write minutes, or 90m, 2h, 1d")
    return sum(int(number) * _MINUTES[unit] for number, unit in parts)


def parse_walltime(text: str) -> str:
    """Return a walltime in Slurm's format; `6h`, `90m`, `2d` and `1h30m` are turned into it."""
    if _WALLTIME.match(text):
        return text
    try:
        minutes = parse_minutes(text)
    except argparse.ArgumentTypeError as exc:
        message = f"{text!r} is not a walltime; write 6h, 90m or 2d, or Slurm's 06:00:00 and 2-00:00:00"
        raise argparse.ArgumentTypeError(message) from exc
    if minutes < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is too short: a minute at least")
    hours, rest = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours:02}:{rest:02}:00"
    return f"{days}-{clock}" if days else clock


def parse_tokens(text: str) -> int:
    """Return the tokens of `40960` or `64k` (k is 1024, as on every screen). Raises argparse.ArgumentTypeError."""
    found = re.fullmatch(r"([0-9]+)([km]?)", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens; write 40960 or 64k")
    return int(found[1]) * _TOKENS[found[2]]


def split_revision(text: str, revision: str | None) -> tuple[str, str | None]:
    """Return the model's id and the revision. revision: of the command line; UsageError where the name has another."""
    name, named = _of_page(text) if text.startswith(("https://", "http://")) else _of_id(text)
    if named and revision and named != revision:
        raise UsageError(f"{text} names the revision {named}, and --revision {revision}; leave one of them out")
    return name, revision or named


def _of_id(text: str) -> tuple[str, str | None]:
    name, _, revision = text.partition("@")
    return name, revision or None


def _of_page(text: str) -> tuple[str, str | None]:
    """Return what an address such as https://huggingface.co/ORG/NAME/tree/REVISION names."""
    parts = [part for part in urlsplit(text).path.split("/") if part]
    if len(parts) < _ID_PARTS:
        raise UsageError(f"{text} is not the page of a model; write ORG/NAME")
    rest = parts[_ID_PARTS:]
    of_revision = len(rest) > 1 and rest[0] in _BEFORE_REVISION
    return "/".join(parts[:_ID_PARTS]), unquote(rest[1]) if of_revision else None
