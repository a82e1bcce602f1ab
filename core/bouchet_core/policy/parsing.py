"""What people write for a policy, as values: `3d`, `forever`, `18:00`, `mon-fri 08:30-18:00`, `40h/week`, `1..3`.

Strict: other text raises LaunchRefusedError, whose message has an example that works.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from bouchet_core.errors import LaunchRefusedError

from .model import DAY_NAMES, MOST_REPLICAS, Budget, BudgetUnit, Hours, Keep, Period, Replicas, WeeklyWindow

LONGEST_KEEP = timedelta(days=366)
LONGEST_TEXT = 200
KEEP_FORMS = "write a time span (36h, 3d, 2w), `forever` or `off`"
MOMENT_FORMS = "write a time (18:00), a day and time (fri 18:00), a date (2027-01-31 18:00) or a time span (3d)"
HOURS_FORMS = "write days and times, such as `mon-fri 08:30-18:00` or `mon,wed 9-17, sat 22:00-02:00`"
BUDGET_FORMS = "write an amount and a period, such as `40h/week`, `8h/day` or `20000su/month`"
REPLICA_FORMS = f"write a number or a range from 1 to {MOST_REPLICAS}, such as `2` or `1..3`"

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_CLOCK = r"([01]?\d|2[0-3])(?::([0-5]\d))?"
_BUDGET_UNITS = {
    "h": BudgetUnit.GPU_HOURS,
    "gpuh": BudgetUnit.GPU_HOURS,
    "gpu-hours": BudgetUnit.GPU_HOURS,
    "su": BudgetUnit.CHARGE,
    "units": BudgetUnit.CHARGE,
}


def parse_keep(text: str, now: datetime) -> Keep:
    """Return how long to keep it: `off`, `forever`, or the time after a span such as 3d."""
    typed = _typed(text, "--keep", KEEP_FORMS)
    if typed == "off":
        return "off"
    if typed in ("forever", "always"):
        return "forever"
    span = _span(typed)
    if span is None:
        raise _refused("--keep", text, KEEP_FORMS)
    return _bounded(now + span, text, now)


def parse_moment(text: str, now: datetime, zone: str, option: str = "--until") -> datetime:
    """Return a time in the future, in UTC. A clock time without a day is the next one of that time in the zone."""
    typed = _typed(text, option, MOMENT_FORMS)
    local = now.astimezone(find_zone(zone))
    span = _span(typed)
    if span is not None:
        return _bounded(now + span, text, now, option)
    found = re.fullmatch(rf"(?:({'|'.join(DAY_NAMES)}|today|tomorrow)\s+)?{_CLOCK}", typed, re.ASCII)
    if found:
        return _bounded(_next_clock(found, local), text, now, option)
    try:
        moment = datetime.fromisoformat(text.strip())
        moment = (moment if moment.tzinfo is not None else moment.replace(tzinfo=local.tzinfo)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        # the first and the last day of the calendar have no UTC time in some zones
        raise _refused(option, text, MOMENT_FORMS) from exc
    return _bounded(moment, text, now, option)


def parse_hours(text: str, zone: str) -> Hours:
    """Return weekly hours; parts without days of their own are of the days before them."""
    typed = _typed(text, "--hours", HOURS_FORMS)
    find_zone(zone)
    # a comma separates both days and parts: a part ends with its times
    pattern = rf"(?:(?P<days>[a-z][a-z,\s-]*?)\s*)?\b{_CLOCK}\s*-\s*(24:00|24|{_CLOCK})\s*(?:,\s*|$)"
    windows: list[WeeklyWindow] = []
    at, days = 0, tuple(range(7))
    for found in re.finditer(pattern, typed, re.ASCII):
        if found.start() != at:
            break
        at = found.end()
        if found["days"]:
            days = _days(found["days"], text)
        start, end = _minute(found[2], found[3]), _end_minute(found[4], found[5], found[6])
        if start == end:
            raise LaunchRefusedError(f"--hours {text!r} has a part that ends when it begins; {HOURS_FORMS}")
        windows.append(WeeklyWindow(days=days, start=start, end=end))
    if at != len(typed) or not 1 <= len(windows) <= 14:
        raise _refused("--hours", text, HOURS_FORMS)
    return Hours(windows=tuple(windows), zone=zone)


def parse_budget(text: str) -> Budget:
    """Return a budget; `h` and `gpuh` are hours of one GPU, `su` the site's charge units."""
    typed = _typed(text, "--budget", BUDGET_FORMS)
    found = re.fullmatch(
        r"([\d,_]*\.?\d+)\s*(h|gpuh|gpu-hours|su|units)\s*(?:/|\s+(?:a|per)\s+)\s*(day|week|month)", typed, re.ASCII
    )
    if not found:
        raise _refused("--budget", text, BUDGET_FORMS)
    amount = float(re.sub("[,_]", "", found[1]))
    if amount == 0:
        raise LaunchRefusedError("--budget 0 would never let a job run; write what it may use, such as `40h/week`")
    try:
        return Budget(amount=amount, unit=_BUDGET_UNITS[found[2]], period=Period(found[3]))
    except ValidationError as exc:
        raise _refused("--budget", text, BUDGET_FORMS) from exc


def parse_replicas(text: str) -> Replicas:
    """Return the number of replicas: `2`, or `1..3` for as many as the load asks for."""
    typed = _typed(text, "--replicas", REPLICA_FORMS)
    found = re.fullmatch(r"(\d{1,3})(?:\s*\.\.\s*(\d{1,3}))?", typed, re.ASCII)
    if not found:
        raise _refused("--replicas", text, REPLICA_FORMS)
    low, high = int(found[1]), int(found[2] or found[1])
    if low > high:
        raise LaunchRefusedError(f"--replicas {text} is no range; did you mean {high}..{low}?")
    if low < 1 or high > MOST_REPLICAS:
        raise _refused("--replicas", text, REPLICA_FORMS)
    return Replicas(low=low, high=high)


def _typed(text: str, option: str, forms: str) -> str:
    typed = " ".join(text.lower().split())
    if not typed or len(typed) > LONGEST_TEXT:
        raise _refused(option, text[:LONGEST_TEXT], forms)
    return typed


def _refused(option: str, text: str, forms: str) -> LaunchRefusedError:
    return LaunchRefusedError(f"{option} {text!r} cannot be read; {forms}")


def _span(typed: str) -> timedelta | None:
    found = re.fullmatch(r"(\d{1,5})\s*([mhdw])", typed, re.ASCII)
    return int(found[1]) * _UNITS[found[2]] if found else None


def _bounded(moment: datetime, text: str, now: datetime, option: str = "--keep") -> datetime:
    if moment <= now:
        raise LaunchRefusedError(f"{option} {text} is in the past or now; {MOMENT_FORMS}")
    if moment - now > LONGEST_KEEP:
        raise LaunchRefusedError(f"{option} {text} is more than a year ahead; write `--keep forever` instead")
    return moment.astimezone(UTC)


def _next_clock(found: re.Match[str], local: datetime) -> datetime:
    """Return the next time that the clock of the zone shows this hour, on the day if one is named."""
    clock = time(int(found[2]), int(found[3] or 0), tzinfo=local.tzinfo)
    day = local.date()
    if found[1] == "tomorrow":
        day += timedelta(days=1)
    elif found[1] in DAY_NAMES:
        day += timedelta(days=(DAY_NAMES.index(found[1]) - day.weekday()) % 7)
    moment = datetime.combine(day, clock)
    if moment <= local and found[1] not in ("today", "tomorrow"):
        moment = datetime.combine(day + timedelta(days=7 if found[1] else 1), clock)
    return moment.astimezone(UTC)


def find_zone(name: str) -> ZoneInfo:
    """Return the time zone of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as exc:
        raise LaunchRefusedError(f"no time zone {name!r}; write an IANA name such as America/New_York") from exc


def _days(typed: str, text: str) -> tuple[int, ...]:
    """Return the days of `mon-fri`, `sat,sun`, `fri-mon`, `daily`, `weekdays` or `weekends`."""
    named = {"daily": (0, 1, 2, 3, 4, 5, 6), "weekdays": (0, 1, 2, 3, 4), "weekends": (5, 6)}
    days: list[int] = []
    for part in filter(None, re.split(r"[,\s]+", re.sub(r"\s*-\s*", "-", typed))):
        ends = [word[:3] for word in part.split("-")]
        if part in named:
            days += named[part]
        elif len(ends) <= 2 and all(word in DAY_NAMES for word in ends):
            first, last = DAY_NAMES.index(ends[0]), DAY_NAMES.index(ends[-1])
            days += [(first + n) % 7 for n in range((last - first) % 7 + 1)]
        else:
            raise _refused("--hours", text, HOURS_FORMS)
    return tuple(sorted(set(days)))


def _minute(hour: str, minute: str | None) -> int:
    return int(hour) * 60 + int(minute or 0)


def _end_minute(typed: str, hour: str | None, minute: str | None) -> int:
    return 1440 if hour is None or typed.startswith("24") else _minute(hour, minute)
