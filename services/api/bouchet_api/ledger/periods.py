"""Days, weeks and months of a time zone, as Unix times. Summer time is the zone's own: a day has 23, 24 or 25 hours."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bouchet_core.errors import BouchetError

from .tables import QUARTER_S

# of one view: some years of days
MAX_DAYS = 3700
FIRST_YEAR, LAST_YEAR = 2000, 2200


class InvalidPeriodError(BouchetError):
    """A request names a period that does not exist; the message says what to write instead."""

    kind = "invalid_period"


class PeriodLength(StrEnum):
    """What a view over time has a line for."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class TimeRange(Protocol):
    """Some time, in Unix seconds; the end is not part of it."""

    @property
    def start(self) -> int:
        """When it begins."""

    @property
    def end(self) -> int:
        """When it has ended."""


@dataclass(frozen=True)
class UnixRange:
    """A range without days of a zone."""

    start: int
    end: int


@dataclass(frozen=True)
class DateRange:
    """Whole days of a zone, both ends included."""

    first: date
    last: date
    zone: ZoneInfo

    @property
    def start(self) -> int:
        """When the first day begins, in Unix seconds."""
        return start_of(self.first, self.zone)

    @property
    def end(self) -> int:
        """When the day after the last one begins, in Unix seconds."""
        return start_of(self.last + timedelta(days=1), self.zone)

    def days(self) -> Iterator[date]:
        """Yield its days."""
        return (self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1))

    def stretches(self) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, UTC offset in seconds): the range in pieces, cut where clocks change."""
        began, day_began, offset = self.start, self.start, self._offset(self.start)
        for day in self.days():
            day_ends = start_of(day + timedelta(days=1), self.zone)
            after = self._offset(day_ends)
            if after != offset:
                quarters = range(day_began, day_ends, QUARTER_S)
                changed = bisect_left([self._offset(at) != offset for at in quarters], True)
                change = quarters[changed] if changed < len(quarters) else day_ends
                yield began, change, offset
                began, offset = change, after
            day_began = day_ends
        if began < self.end:
            yield began, self.end, offset

    def _offset(self, at: int) -> int:
        offset = datetime.fromtimestamp(at, self.zone).utcoffset()
        return round(offset.total_seconds()) if offset else 0


def make_range(
    zone: str, first: str | None, last: str | None, month: str | None, now: datetime, *, default_days: int = 30
) -> DateRange:
    """Return the range that a request names; without any, the last `default_days` days. Raises InvalidPeriodError.

    first, last: days such as 2026-11-29; month: such as 2026-11.
    """
    tz = find_zone(zone)
    today = now.astimezone(tz).date()
    if month is not None:
        if first or last:
            raise InvalidPeriodError("name a month, or `from` and `to`, not both")
        begin = _parse_day(f"{month}-01", "month", "2026-11")
        return DateRange(begin, (begin + timedelta(days=32)).replace(day=1) - timedelta(days=1), tz)
    end = _parse_day(last, "to", "2026-11-29") if last else today
    begin = _parse_day(first, "from", "2026-11-01") if first else end - timedelta(days=default_days - 1)
    if begin > end:
        raise InvalidPeriodError(f"`from` ({begin}) is after `to` ({end})")
    if (end - begin).days >= MAX_DAYS:
        raise InvalidPeriodError(f"a view covers at most {MAX_DAYS} days; choose a later `from`")
    return DateRange(begin, end, tz)


@lru_cache(maxsize=64)
def find_zone(name: str) -> ZoneInfo:
    """Return the time zone of that IANA name. Raises InvalidPeriodError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise InvalidPeriodError(f"no time zone {name[:60]!r}; write one such as America/New_York or UTC") from exc


def start_of(day: date, zone: ZoneInfo) -> int:
    """Return when the day begins there: at midnight, or when clocks go on where summer time skips midnight."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC).timestamp())


def first_of(day: date, length: PeriodLength) -> date:
    """Return the first day of the period that contains the day; weeks begin on Monday."""
    if length is PeriodLength.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if length is PeriodLength.MONTH else day


def _parse_day(text: str, field: str, example: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as exc:
        raise InvalidPeriodError(f"`{field}` is not a date such as {example}") from exc
    if not FIRST_YEAR <= day.year < LAST_YEAR:
        raise InvalidPeriodError(f"`{field}` is not between {FIRST_YEAR} and {LAST_YEAR - 1}")
    return day
