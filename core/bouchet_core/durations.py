"""Durations as Slurm writes them, `D-HH:MM:SS`, to seconds and back."""

from __future__ import annotations

import re

from .errors import SlurmOutputError


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
