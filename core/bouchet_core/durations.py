"""Durations in Slurm's format, `D-HH:MM:SS`, and time spans such as 90s, 15m, 24h, 30d or 2w."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import StringConstraints

from .errors import SlurmOutputError

TIME_SPAN_PATTERN = r"^[1-9][0-9]{0,4}[smhdw]$"
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

TimeSpan = Annotated[str, StringConstraints(pattern=TIME_SPAN_PATTERN)]


def parse_duration(text: str) -> int:
    """Seconds of `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M`, `D-H:M:S`: the forms sbatch --time takes."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip(), re.ASCII)
    if not found:
        raise SlurmOutputError("Slurm (a duration)", text)
    days, one, two, three = (int(part) if part is not None else None for part in found.groups())
    if days is not None:
        hours, minutes, seconds = one or 0, two or 0, three or 0
    elif three is not None:
        hours, minutes, seconds = one or 0, two or 0, three
    else:
        hours, minutes, seconds = 0, one or 0, two or 0
    return ((days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds


def format_duration(seconds: int) -> str:
    """`HH:MM:SS`, with days in front from 24 h on."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours:02}:{minutes:02}:{rest:02}"
    return f"{days}-{clock}" if days else clock


def parse_time_span(text: str) -> timedelta:
    """Parse a time span; raise ValueError for other text."""
    if not re.match(TIME_SPAN_PATTERN, text):
        raise ValueError(f"{text!r} is not a time span such as 15m, 24h or 30d")
    return timedelta(seconds=int(text[:-1]) * _UNIT_SECONDS[text[-1]])
