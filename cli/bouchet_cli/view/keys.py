"""API keys and usage as tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from bouchet_cli.client.http import Json

from .screen import StyledLine
from .tables import Column, age, bar, duration, milliseconds, short_count, table

KEY_COLUMNS = (
    Column("HOLDER", flexible=True),
    Column("KEY"),
    Column("REQ/MIN", right=True, rank=2),
    Column("TOK/MIN", right=True, rank=3),
    Column("CREATED", rank=4),
    Column("EXPIRES", rank=1),
)
BAR_COLUMN = 2


def key_lines(keys: Sequence[Json], width: int, now: datetime) -> list[StyledLine]:
    """Return a table with a row for each key."""
    return table(KEY_COLUMNS, [_key_row(key, now) for key in keys], width)


def usage_lines(by: str, usage: Sequence[Json], width: int) -> list[StyledLine]:
    """Return a table with a row for each key, model, session or deployment, and its errors below."""
    columns = (
        Column(by.upper(), flexible=True),
        Column("TOKENS", right=True),
        Column("", rank=9),
        Column("REQ", right=True, rank=2),
        Column("INPUT", right=True, rank=4),
        Column("CACHED", right=True, rank=5),
        Column("OUTPUT", right=True, rank=3),
        Column("TTFT", right=True, rank=6),
        Column("TOK/S", right=True, rank=7),
        Column("ERR", right=True, rank=1),
    )
    largest = max((_tokens(one) for one in usage), default=0)
    rows = [_usage_row(one, largest) for one in usage]
    notes = [_errors(one["errors_by_kind"]) for one in usage]
    return table(columns, rows, width, notes=notes, styles=["cyan"] * len(rows), styled=BAR_COLUMN)


def _key_row(key: Json, now: datetime) -> tuple[str, ...]:
    expires = "never"
    if key["expires_at"]:
        moment = datetime.fromisoformat(key["expires_at"])
        left = (moment - now).total_seconds()
        expires = f"in {duration(left)}" if left > 0 else age(moment, now)
    limits = [_limit(key["requests_per_minute"]), _limit(key["tokens_per_minute"])]
    return key["name"], key["shown"], *limits, age(datetime.fromisoformat(key["created_at"]), now), expires


def _usage_row(usage: Json, largest: int) -> tuple[str, ...]:
    first_token, speed = usage["first_token_ms"], usage["tokens_per_second"]
    return (
        usage["name"],
        short_count(_tokens(usage)),
        bar(_tokens(usage), largest),
        short_count(usage["requests"]),
        short_count(usage["input_tokens"]),
        _cached_share(usage["cached_tokens"], usage["input_tokens"]),
        short_count(usage["output_tokens"]),
        "-" if first_token is None else milliseconds(first_token),
        "-" if speed is None else f"{speed:.0f}",
        short_count(usage["errors"]) if usage["errors"] else "-",
    )


def _cached_share(cached: int, computed: int) -> str:
    return f"{100 * cached / (cached + computed):.0f}%" if cached + computed else "-"


def _tokens(usage: Json) -> int:
    return int(usage["input_tokens"]) + int(usage["output_tokens"])


def _limit(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _errors(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
