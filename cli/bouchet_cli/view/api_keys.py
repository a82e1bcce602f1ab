"""Keys and usage as tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from bouchet_cli.client.records import Json

from .line import Line
from .tables import duration, table

BAR_CELLS = 8
EIGHTHS = " ▏▎▍▌▋▊▉"


def key_lines(keys: Sequence[Json], width: int, now: datetime) -> list[Line]:
    """A row for each key."""
    head = ("HOLDER", "KEY", "REQ/MIN", "TOK/MIN", "MADE", "EXPIRES")
    return table(head, [_key_row(key, now) for key in keys], width, right=(2, 3))


def _key_row(key: Json, now: datetime) -> tuple[str, ...]:
    age = duration((now - datetime.fromisoformat(key["created_at"])).total_seconds())
    expires = "never"
    if key["expires_at"]:
        left = (datetime.fromisoformat(key["expires_at"]) - now).total_seconds()
        expires = f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago"
    limits = [_limit(key["requests_per_minute"]), _limit(key["tokens_per_minute"])]
    return key["name"], key["shown"], *limits, f"{age} ago", expires


def usage_lines(by: str, lines: Sequence[Json], width: int) -> list[Line]:
    """A row for each key, model, session or deployment, with a bar; what went wrong stands below it."""
    head = (by.upper(), "TOKENS", "", "REQ", "INPUT", "CACHED", "OUTPUT", "FIRST", "TOK/S", "ERR")
    most = max((_tokens(line) for line in lines), default=0)
    rows = [_usage_row(line, most) for line in lines]
    notes = [_errors(line["errors_by_kind"]) for line in lines]
    return table(head, rows, width, notes=notes, styles=["cyan"] * len(rows), right=(1, 3, 4, 5, 6, 7, 8, 9), styled=2)


def _usage_row(line: Json, most: int) -> tuple[str, ...]:
    first, speed = line["first_token_ms"], line["tokens_per_second"]
    return (
        line["name"],
        short(_tokens(line)),
        bar(_tokens(line), most),
        short(line["requests"]),
        short(line["input_tokens"]),
        _share(line["cached_tokens"], line["input_tokens"]),
        short(line["output_tokens"]),
        "-" if first is None else seconds(first),
        "-" if speed is None else f"{speed:.0f}",
        short(line["errors"]) if line["errors"] else "-",
    )


def bar(amount: int, most: int, cells: int = BAR_CELLS) -> str:
    """A bar of at most so many cells; whoever used anything has some of it."""
    eighths = max(1, round(amount / most * cells * 8)) if amount and most else 0
    return ("█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")).ljust(cells)


def short(count: int) -> str:
    """950, 12.3k, 4.56M: three digits at most."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            value = count / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{unit}"
    return str(count)


def seconds(milliseconds: int) -> str:
    """340ms, 2.3s, 41s."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    return f"{milliseconds / 1000:.1f}s" if milliseconds < 10_000 else f"{milliseconds / 1000:.0f}s"


def _share(cached: int, computed: int) -> str:
    return f"{100 * cached / (cached + computed):.0f}%" if cached + computed else "-"


def _tokens(line: Json) -> int:
    return int(line["input_tokens"]) + int(line["output_tokens"])


def _limit(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _errors(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
