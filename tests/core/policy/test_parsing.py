"""What people write for a policy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from bouchet_core.errors import LaunchRefusedError
from bouchet_core.policy import (
    Budget,
    BudgetUnit,
    Period,
    Policy,
    Replicas,
    WeeklyWindow,
    parse_budget,
    parse_hours,
    parse_keep,
    parse_moment,
    parse_replicas,
)
from hypothesis import given
from hypothesis import strategies as st

# a Sunday in Connecticut, 07:34
NOW = datetime(2026, 11, 29, 12, 34, tzinfo=UTC)
YALE = "America/New_York"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off", "off"),
        (" Forever ", "forever"),
        ("3d", NOW + timedelta(days=3)),
        ("90m", NOW + timedelta(minutes=90)),
        ("2 w", NOW + timedelta(days=14)),
    ],
)
def test_parse_keep_of_a_span_returns_its_end(text: str, expected: object) -> None:
    assert parse_keep(text, NOW) == expected


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("18:00", "2026-11-29 18:00"),
        ("7", "2026-11-30 07:00"),
        ("07:34", "2026-11-30 07:34"),
        ("sun 7:00", "2026-12-06 07:00"),
        ("sun 18:00", "2026-11-29 18:00"),
        ("fri 18:00", "2026-12-04 18:00"),
        ("tomorrow 6:30", "2026-11-30 06:30"),
        ("today 23:59", "2026-11-29 23:59"),
        ("2027-01-31 18:00", "2027-01-31 18:00"),
        ("2026-12-02T18:00:00+00:00", "2026-12-02 13:00"),
        ("3h", "2026-11-29 10:34"),
    ],
)
def test_parse_moment_returns_the_next_such_time_of_the_zone(text: str, local: str) -> None:
    expected = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(YALE))
    assert parse_moment(text, NOW, YALE) == expected


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("mon-fri 08:30-18:00", [((0, 1, 2, 3, 4), 510, 1080)]),
        ("Mon,Wed 9-17, sat 22:00-02:00", [((0, 2), 540, 1020), ((5,), 1320, 120)]),
        ("daily 8-24", [((0, 1, 2, 3, 4, 5, 6), 480, 1440)]),
        ("09:00-12:00", [((0, 1, 2, 3, 4, 5, 6), 540, 720)]),
        ("weekdays 8-12, 13-18", [((0, 1, 2, 3, 4), 480, 720), ((0, 1, 2, 3, 4), 780, 1080)]),
        ("fri - mon 20:00 - 23:30", [((0, 4, 5, 6), 1200, 1410)]),
        ("monday-friday 9-10", [((0, 1, 2, 3, 4), 540, 600)]),
    ],
)
def test_parse_hours_returns_windows(text: str, windows: list[tuple[tuple[int, ...], int, int]]) -> None:
    expected = tuple(WeeklyWindow(days=days, start=start, end=end) for days, start, end in windows)
    hours = parse_hours(text, YALE)
    assert hours.windows == expected
    # what is shown can be typed again
    assert parse_hours(str(hours).partition(" (")[0], YALE) == hours


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("40h/week", Budget(amount=40, unit=BudgetUnit.GPU_HOURS, period=Period.WEEK)),
        ("7.5 h per day", Budget(amount=7.5, unit=BudgetUnit.GPU_HOURS, period=Period.DAY)),
        ("20,000su/month", Budget(amount=20_000, unit=BudgetUnit.CHARGE, period=Period.MONTH)),
    ],
)
def test_parse_budget_returns_amount_unit_and_period(text: str, expected: Budget) -> None:
    assert parse_budget(text) == expected


def test_parse_replicas_returns_a_range() -> None:
    assert parse_replicas("2") == Replicas(low=2, high=2)
    assert parse_replicas("1..3") == Replicas(low=1, high=3)
    assert str(parse_replicas("1..3")) == "1..3"


def refusals() -> list[str]:
    """Return the messages of every kind of text that is refused."""
    found = []
    for text in ("soon", "3", "", "3dd", "400d", "0d", "-3d"):
        with pytest.raises(LaunchRefusedError) as refused:
            parse_keep(text, NOW)
        found.append(str(refused.value))
    for text in ("25:00", "yesterday 8:00", "today 7:00", "2020-01-01", "2026-02-30 10:00", "9000d"):
        with pytest.raises(LaunchRefusedError) as refused:
            parse_moment(text, NOW, YALE)
        found.append(str(refused.value))
    for text in ("mon-fri", "9-9", "someday 9-17", "mon 9-17 x", "mon 8:70-9", "mon-tue-wed 9-17"):
        with pytest.raises(LaunchRefusedError) as refused:
            parse_hours(text, YALE)
        found.append(str(refused.value))
    for text in ("40h", "0h/week", "h/week", "40eur/week", "40h/year", "-1h/day"):
        with pytest.raises(LaunchRefusedError) as refused:
            parse_budget(text)
        found.append(str(refused.value))
    for text in ("3..1", "0", "1..99", "a few", "1..", "-2"):
        with pytest.raises(LaunchRefusedError) as refused:
            parse_replicas(text)
        found.append(str(refused.value))
    with pytest.raises(LaunchRefusedError) as refused:
        parse_hours("9-17", "Mars/Olympus")
    return [*found, str(refused.value)]


def test_parse_functions_refuse_other_text_and_show_what_works() -> None:
    messages = refusals()
    assert all("such as" in message or "write" in message or "did you mean" in message for message in messages)
    assert "--replicas 3..1 is no range; did you mean 1..3?" in messages


@given(st.text(max_size=60) | st.text("0123456789:-., monfrisathdw/.eku", max_size=30))
def test_parse_functions_of_any_text_return_or_refuse(text: str) -> None:
    for parse in (
        lambda: parse_keep(text, NOW),
        lambda: parse_moment(text, NOW, YALE),
        lambda: parse_hours(text, YALE),
        lambda: parse_budget(text),
        lambda: parse_replicas(text),
    ):
        try:
            parse()
        except LaunchRefusedError as refused:
            assert len(str(refused)) < 600


def test_policy_survives_json() -> None:
    policy = Policy(
        keep=NOW,
        on_demand=True,
        replicas=Replicas(low=1, high=2),
        hours=parse_hours("mon-fri 8-18", YALE),
        budget=parse_budget("40h/week"),
        zone=YALE,
    )
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
    assert Policy.model_validate_json("{}") == Policy()
