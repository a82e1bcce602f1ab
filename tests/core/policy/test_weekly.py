"""Weekly hours and budget periods in time zones, over the days of summer time too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from bouchet_core.policy import Period, parse_hours
from bouchet_core.policy.weekly import hours_within, last_end, next_window, period_at, window_at
from hypothesis import given
from hypothesis import strategies as st

YALE = ZoneInfo("America/New_York")
HOURS = ("mon-fri 08:30-18:00", "daily 22:00-02:30", "sun 1-3", "sat 0-24, sun 0:30-1:30", "mon 9-8:59", "sun 2-3",
         "daily 0-24")  # fmt: skip
OFFICE = parse_hours("mon-fri 08:30-18:00", "America/New_York")


def local(text: str) -> datetime:
    """Return a time of Connecticut."""
    return datetime.fromisoformat(text).replace(tzinfo=YALE)


def test_window_at_within_hours_returns_their_end() -> None:
    window = window_at(OFFICE, local("2026-11-30 12:00"))
    assert window is not None
    assert (window.start, window.end) == (local("2026-11-30 08:30"), local("2026-11-30 18:00"))
    assert window_at(OFFICE, local("2026-11-30 18:00")) is None
    assert window_at(OFFICE, local("2026-11-29 12:00")) is None


def test_next_window_of_a_friday_evening_is_monday() -> None:
    evening = local("2026-11-27 18:00")
    window = next_window(OFFICE, evening)
    assert window is not None and window.start == local("2026-11-30 08:30")
    assert last_end(OFFICE, evening) == evening


@pytest.mark.parametrize(("day", "utc"), [("2026-03-06", 13.5), ("2026-03-09", 12.5), ("2026-11-02", 13.5)])
def test_window_start_follows_summer_time(day: str, utc: float) -> None:
    window = window_at(OFFICE, local(f"{day} 09:00"))
    assert window is not None
    assert window.start.hour + window.start.minute / 60 == utc


def test_window_over_the_changes_of_summer_time_has_real_length() -> None:
    nights = parse_hours("sat 22:00-06:00", "America/New_York")
    lengths = {}
    for saturday in ("2026-03-07 23:00", "2026-10-31 23:00", "2026-06-06 23:00"):
        window = window_at(nights, local(saturday))
        assert window is not None
        lengths[saturday[:7]] = (window.end - window.start).total_seconds() / 3600
    assert lengths == {"2026-03": 7, "2026-10": 9, "2026-06": 8}


def test_window_in_the_skipped_hour_is_an_hour_later() -> None:
    skipped = parse_hours("sun 02:30-04:00", "America/New_York")
    window = next_window(skipped, local("2026-03-08 00:00"))
    assert window is not None and window.start == local("2026-03-08 03:30").astimezone(UTC)
    repeated = next_window(parse_hours("sun 01:30-01:45", "America/New_York"), local("2026-11-01 00:00"))
    assert repeated is not None
    # the clock shows 01:30 twice; it begins at the first and ends after the second
    assert (repeated.end - repeated.start) == timedelta(minutes=75)


def test_window_of_touching_hours_is_one() -> None:
    always = parse_hours("daily 0-12, 12-24", "America/New_York")
    window = window_at(always, local("2026-11-30 12:00"))
    assert window is not None and window.end - window.start > timedelta(days=5)
    # it never begins again, and it began long before anything was parked
    assert next_window(always, local("2026-11-30 12:00")) is None
    assert window.start < local("2020-01-01 00:00")
    # a stretch of days is whole on each of them
    days = parse_hours("mon-fri 0-24", "America/New_York")
    for day in range(23, 28):
        window = window_at(days, local(f"2026-11-{day} 12:00"))
        assert window is not None and window.start == local("2026-11-23 00:00")
        assert window.end == local("2026-11-28 00:00")


def test_next_window_passes_over_a_week_whose_only_window_summer_time_skips() -> None:
    skipped = parse_hours("sun 2-3", "America/New_York")
    window = next_window(skipped, local("2027-03-07 03:00"))
    assert window is not None and window.start == local("2027-03-21 02:00")


def test_unknown_zone_of_a_stored_policy_counts_in_utc() -> None:
    elsewhere = OFFICE.model_copy(update={"zone": "Moon/Base"})
    window = window_at(elsewhere, datetime(2026, 11, 30, 12, tzinfo=UTC))
    assert window is not None and window.start == datetime(2026, 11, 30, 8, 30, tzinfo=UTC)
    assert period_at(Period.DAY, window.start, "Moon/Base").start == datetime(2026, 11, 30, tzinfo=UTC)


def test_hours_within_a_month_counts_open_hours() -> None:
    # 21 working days of 9.5 hours
    assert hours_within(OFFICE, local("2026-12-01 00:00"), local("2026-12-30 00:00")) == 21 * 9.5


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        (Period.DAY, "2026-11-01 00:00", "2026-11-02 00:00"),
        (Period.WEEK, "2026-10-26 00:00", "2026-11-02 00:00"),
        (Period.MONTH, "2026-11-01 00:00", "2026-12-01 00:00"),
    ],
)
def test_period_at_the_end_of_summer_time_is_the_zone_s(period: Period, start: str, end: str) -> None:
    found = period_at(period, local("2026-11-01 23:30"), "America/New_York")
    assert (found.start, found.end) == (local(start), local(end))


@given(
    st.integers(0, 2 * 365 * 86_400),
    st.sampled_from(["America/New_York", "Europe/Zurich", "Australia/Lord_Howe", "UTC"]),
    st.sampled_from(HOURS),
)
def test_next_window_at_any_time_begins_after_it(after_s: int, zone: str, text: str) -> None:
    hours, now = parse_hours(text, zone), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=after_s)
    window = next_window(hours, now)
    if window is None:
        assert text == "daily 0-24"
        return
    assert now < window.start < window.end
    assert window.start - now <= timedelta(days=8 if text != "sun 2-3" else 15)
    assert window_at(hours, window.start) == window
    previous = last_end(hours, now)
    assert previous is None or previous <= now
