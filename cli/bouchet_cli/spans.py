"""Times and token counts as people type them: 6h, 90m, 2d; 64k. Pure; used as argparse types."""

from __future__ import annotations

import argparse
import re

_MINUTES = {"m": 1, "h": 60, "d": 24 * 60, "w": 7 * 24 * 60}
_TOKENS = {"": 1, "k": 1 << 10, "m": 1 << 20}
_WALLTIME = re.compile(r"^([0-9]{1,3}-)?[0-9]{1,3}(:[0-5]?[0-9]){0,2}$")


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
