"""When weekly hours and budget periods begin and end, in UTC. Summer time is the zone's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from .model import MINUTES_A_DAY, Hours, Period

# summer time may skip the only window of a week; a stretch of windows that touch is whole, as it has a gap in each week
_DAYS_BACK, _DAYS_AHEAD = 9, 17
# the start of hours without a gap
_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Span:
    """A stretch of time in UTC; the end does not belong to it."""

    start: datetime
    end: datetime

    def contains(self, moment: datetime) -> bool:
        """Tell whether the moment is within the span."""
        return self.start <= moment < self.end


def window_at(hours: Hours, now: datetime) -> Span | None:
    """Return the window that is open now; windows that touch are one."""
    return next((span for span in _spans_near(hours, now) if span.contains(now)), None)


def next_window(hours: Hours, now: datetime) -> Span | None:
    """Return the first window that begins after now; None for hours without a gap."""
    return next((span for span in _spans_near(hours, now) if span.start > now), None)


def last_end(hours: Hours, now: datetime) -> datetime | None:
    """Return when the last window before now ended; None if that is days ago."""
    return max((span.end for span in _spans_near(hours, now) if span.end <= now), default=None)


def hours_within(hours: Hours, start: datetime, end: datetime) -> float:
    """Return the hours of all windows between two times, at most some months apart."""
    zone = zone_or_utc(hours.zone)
    first = start.astimezone(zone).date() - timedelta(days=1)
    days = (end.astimezone(zone).date() - first).days + 1
    spans = _merged([span for n in range(days) for span in _spans_of(hours, first + timedelta(days=n), zone)])
    seconds = ((min(span.end, end) - max(span.start, start)).total_seconds() for span in spans)
    return sum(max(0.0, s) for s in seconds) / 3600


@lru_cache(maxsize=64)
def zone_or_utc(name: str) -> ZoneInfo:
    """Return the time zone, UTC if this computer does not know it: a record may be of one that does."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return ZoneInfo("UTC")


def period_at(period: Period, now: datetime, zone: str) -> Span:
    """Return the calendar day, week (from Monday) or month of the zone that contains now."""
    tz = zone_or_utc(zone)
    today = now.astimezone(tz).date()
    if period is Period.DAY:
        first, after = today, today + timedelta(days=1)
    elif period is Period.WEEK:
        first = today - timedelta(days=today.weekday())
        after = first + timedelta(days=7)
    else:
        first = today.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    return Span(_start_of(first, 0, tz), _start_of(after, 0, tz))


def _spans_near(hours: Hours, now: datetime) -> Sequence[Span]:
    return _spans_from(hours, now.astimezone(zone_or_utc(hours.zone)).date())


@lru_cache(maxsize=1024)
def _spans_from(hours: Hours, today: date) -> tuple[Span, ...]:
    """Return merged spans, in order, of the days around `today` of the zone."""
    zone = zone_or_utc(hours.zone)
    days = [today + timedelta(days=n) for n in range(-_DAYS_BACK, _DAYS_AHEAD)]
    spans = _merged([span for day in days for span in _spans_of(hours, day, zone)])
    if len(spans) == 1 and spans[0].end - spans[0].start > timedelta(days=8):
        return (Span(_ALWAYS, spans[0].end),)
    return tuple(spans)


def _spans_of(hours: Hours, day: date, zone: ZoneInfo) -> list[Span]:
    found = []
    for window in hours.windows:
        if day.weekday() in window.days:
            end = window.end if window.end > window.start else window.end + MINUTES_A_DAY
            found.append(Span(_start_of(day, window.start, zone), _end_of(day, end, zone)))
    return found


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans, key=lambda s: s.start):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        elif span.start < span.end:
            merged.append(span)
    return merged


def _start_of(day: date, minute: int, zone: ZoneInfo, *, fold: int = 0) -> datetime:
    """Return the moment at which clocks of the zone show the minute of the day.

    A time that summer time skips is an hour later; of a time that occurs twice, fold 0 is the first.
    """
    days, rest = divmod(minute, MINUTES_A_DAY)
    clock = time(rest // 60, rest % 60, fold=fold)
    return datetime.combine(day + timedelta(days=days), clock, tzinfo=zone).astimezone(UTC)


def _end_of(day: date, minute: int, zone: ZoneInfo) -> datetime:
    return max(_start_of(day, minute, zone), _start_of(day, minute, zone, fold=1))
