"""Spans of time as people write them: 90s, 15m, 24h, 30d, 2w. Pure."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import StringConstraints

PATTERN = r"^[1-9][0-9]{0,4}[smhdw]$"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Span = Annotated[str, StringConstraints(pattern=PATTERN)]


def parse_span(text: str) -> timedelta:
    """The span; ValueError for anything else."""
    if not re.match(PATTERN, text):
        raise ValueError(f"{text!r} is no span of time such as 15m, 24h or 30d")
    return timedelta(seconds=int(text[:-1]) * _SECONDS[text[-1]])
