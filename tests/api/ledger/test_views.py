"""Sums over days of a time zone, through summer time, on each kind of database."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from bouchet_api.ledger.accounting_views import compare_with_accounting, job_differences
from bouchet_api.ledger.gpu_views import GpuBy, GpuSummary, summarize_gpu_time, total_gpu_time
from bouchet_api.ledger.periods import DateRange, InvalidPeriodError, make_range
from bouchet_api.ledger.request_views import RequestsBy, last_requests, summarize_requests, total_requests
from bouchet_core.ledger import JobEntry, SpanKind

from .conftest import LedgerUnderTest
from .entries import NOON, accounting, job, moment, request

ZONES = ("America/New_York", "Europe/Zurich", "Asia/Kathmandu", "UTC")
# days on which clocks change in either zone, and one on which none does
DAYS = ("2026-03-08", "2026-03-29", "2026-10-25", "2026-11-01", "2026-11-10")


def days(zone: str, first: str, last: str) -> DateRange:
    """Return a range of days."""
    return make_range(zone, first, last, None, NOON)


def lines(ledger: LedgerUnderTest, by: RequestsBy, span: DateRange) -> dict[str, int]:
    """Return the number of requests by line."""
    with ledger.database.read() as connection:
        return {line.name: line.requests for line in summarize_requests(connection, by, span)}


@pytest.mark.parametrize("zone", ZONES)
def test_a_day_has_the_requests_between_its_midnights(ledger: LedgerUnderTest, zone: str) -> None:
    tz = ZoneInfo(zone)
    expected: dict[str, int] = {}
    for day in DAYS:
        begin = datetime.fromisoformat(day).replace(tzinfo=tz).astimezone(UTC)
        end = (datetime.fromisoformat(day) + timedelta(days=1)).replace(tzinfo=tz).astimezone(UTC)
        # one in each quarter of an hour of the day, and the last moment before and the first after it
        quarters = int((end - begin) / timedelta(minutes=15))
        moments = [begin + n * timedelta(minutes=15) for n in range(quarters)]
        around = [begin - timedelta(milliseconds=1), end]
        ledger.proxy.usage.add([request(at) for at in (*moments, *around)])
        expected[day] = quarters
    ledger.consumer.take_pending()
    assert expected["2026-11-10"] == 96
    assert expected["2026-11-01"] == (100 if zone == "America/New_York" else 96)
    assert expected["2026-10-25"] == (100 if zone == "Europe/Zurich" else 96)
    assert expected["2026-03-29"] == (92 if zone == "Europe/Zurich" else 96)
    for day, count in expected.items():
        span = days(zone, day, day)
        assert lines(ledger, RequestsBy.DAY, span) == {day: count}
        # the same by sums of UTC days and the quarters of an hour around them
        assert lines(ledger, RequestsBy.KEY, span) == {"alice": count}
    whole = days(zone, "2026-01-01", "2026-12-31")
    by_day = lines(ledger, RequestsBy.DAY, whole)
    assert {day: by_day[day] for day in DAYS} == expected
    assert sum(by_day.values()) == lines(ledger, RequestsBy.KEY, whole)["alice"] == sum(expected.values()) + 10


def test_weeks_and_months_add_their_days(ledger: LedgerUnderTest) -> None:
    moments = [moment(f"2026-10-{day}T12:00") for day in (25, 26, 31)] + [moment("2026-11-01T12:00")]
    ledger.proxy.usage.add([request(at) for at in moments])
    ledger.consumer.take_pending()
    span = days("Europe/Zurich", "2026-10-01", "2026-11-30")
    assert lines(ledger, RequestsBy.WEEK, span) == {"2026-10-19": 1, "2026-10-26": 3}
    assert lines(ledger, RequestsBy.MONTH, span) == {"2026-10": 3, "2026-11": 1}
    month = make_range("Europe/Zurich", None, None, "2026-10", NOON)
    assert (str(month.first), str(month.last)) == ("2026-10-01", "2026-10-31")
    assert lines(ledger, RequestsBy.MODEL, month) == {"Qwen/Qwen3-Coder-Next-FP8": 3}


def test_views_have_tokens_speed_and_errors(ledger: LedgerUnderTest) -> None:
    ledger.proxy.usage.add(
        [
            request(key="bob", output=50, generating_ms=500, first_ms=200),
            request(key="bob", output=0, first_ms=None, error="overloaded", status=529, request_class="subagent"),
            request(agent="Explore", request_class="subagent"),
        ]
    )
    ledger.consumer.take_pending()
    span = days("UTC", "2026-11-10", "2026-11-10")
    with ledger.database.read() as connection:
        bob, alice = sorted(summarize_requests(connection, RequestsBy.KEY, span), key=lambda one: one.name != "bob")
        total = total_requests(connection, span)
        [failed] = last_requests(connection, 10, failed=True)
        assert len(last_requests(connection, 2)) == 2
    assert (bob.requests, bob.errors, bob.errors_by_kind) == (2, 1, {"overloaded": 1})
    assert (bob.tokens_per_second, bob.first_token_ms, bob.output_tokens) == (100.0, 200, 50)
    assert (alice.name, alice.cached_tokens) == ("alice", 90)
    assert (total.requests, total.errors_by_kind) == (3, {"overloaded": 1})
    assert failed["status"] == 529
    assert lines(ledger, RequestsBy.CLASS, span) == {"subagent": 2, "main": 1}
    assert lines(ledger, RequestsBy.AGENT, span) == {"Explore": 1}


NIGHT = (
    ("queued", "2026-11-01T01:00", "2026-11-01T02:00"),
    ("starting", "2026-11-01T02:00", "2026-11-01T02:30"),
    ("serving", "2026-11-01T02:30", "2026-11-01T08:00"),
    ("idle", "2026-11-01T08:00", "2026-11-01T09:00"),
)


def test_gpu_time_is_cut_at_midnight_of_the_zone(ledger: LedgerUnderTest) -> None:
    ledger.worker.ledger.append([job("j", *NIGHT)])
    ledger.consumer.take_pending()
    with ledger.database.read() as connection:
        # midnight of 1 November is at 4:00 UTC there
        york = days("America/New_York", "2026-10-31", "2026-11-01")
        by_day = {one.name: one for one in summarize_gpu_time(connection, GpuBy.DAY, york, NOON.timestamp()).lines}
        assert {name: one.gpu_hours for name, one in by_day.items()} == {"2026-10-31": 4.0, "2026-11-01": 10.0}
        assert (by_day["2026-10-31"].starting_hours, by_day["2026-10-31"].queued_hours) == (1.0, 1.0)
        assert (by_day["2026-11-01"].idle_hours, by_day["2026-11-01"].charge) == (2.0, 3000.0)
        zurich = days("Europe/Zurich", "2026-11-01", "2026-11-01")
        [line] = summarize_gpu_time(connection, GpuBy.MODEL, zurich, NOON.timestamp()).lines
        assert (line.gpu_hours, line.charge, line.charge_unit, line.jobs) == (14.0, 4200.0, "SU", 1)
        assert total_gpu_time(connection, days("UTC", "2026-11-02", "2026-11-03"), NOON.timestamp()).gpu_hours == 0
        [month] = summarize_gpu_time(connection, GpuBy.MONTH, zurich, NOON.timestamp()).lines
        assert (month.name, month.serving_hours) == ("2026-11", 11.0)


def random_jobs(source: random.Random, number: int) -> list[JobEntry]:
    """Return jobs of some hours over a fortnight with a change of clocks; one in five still runs."""
    made = []
    for index in range(number):
        times = [moment("2026-10-25T00:00") + timedelta(minutes=source.randrange(14 * 24 * 60))]
        times += [times[-1] + timedelta(minutes=source.randrange(1, 900)) for _ in range(2)]
        texts = [f"{at:%Y-%m-%dT%H:%M}" for at in sorted(times)]
        spans = [("queued", texts[0], texts[1]), ("serving", texts[1], texts[2] if index % 5 else None)]
        facts: dict[str, Any] = {"gpus": source.randrange(1, 5), "charge_per_gpu_hour": source.choice([None, 10.0])}
        made.append(job(f"job-{index}", *spans, model=f"model-{index % 3}", **facts))
    return made


def hours_between(entries: list[JobEntry], begin: float, end: float) -> float:
    """Return the GPU hours of these jobs between two times, span by span."""
    found = 0.0
    for one in entries:
        for span in one.spans:
            if span.kind is SpanKind.SERVING:
                last = min(span.end.timestamp() if span.end else NOON.timestamp(), end)
                found += max(0.0, last - max(span.start.timestamp(), begin)) * one.gpus / 3600
    return found


def test_gpu_views_have_what_the_spans_come_to_over_all_periods_and_names(ledger: LedgerUnderTest) -> None:
    entries = random_jobs(random.Random(14), 60)
    ledger.worker.ledger.append(entries)
    ledger.consumer.take_pending()
    zone, now = ZoneInfo("Europe/Zurich"), NOON.timestamp()
    for span in (days(zone.key, "2026-10-25", "2026-11-09"), days(zone.key, "2026-10-30", "2026-11-03")):
        with ledger.database.read() as connection:
            found = {by: summarize_gpu_time(connection, by, span, now) for by in GpuBy}
            short = summarize_gpu_time(connection, GpuBy.JOB, span, now, most_jobs=5)
        expected = hours_between(entries, span.start, span.end)
        for by, table in found.items():
            assert table.total.gpu_hours == pytest.approx(expected, abs=1e-3), by
            assert table.total.charge == pytest.approx(found[GpuBy.MODEL].total.charge, abs=0.02), by
            assert table.total.jobs == found[GpuBy.JOB].total.jobs == len(found[GpuBy.JOB].lines), by
            assert sum(line.gpu_hours for line in table.lines) == pytest.approx(expected, abs=0.01), by
        for line in found[GpuBy.DAY].lines:
            begin = datetime.fromisoformat(line.name).replace(tzinfo=zone)
            assert line.gpu_hours == pytest.approx(
                hours_between(entries, begin.timestamp(), (begin + timedelta(days=1)).timestamp()), abs=1e-3
            )
        assert short.lines[:5] == found[GpuBy.JOB].lines[:5] and short.total == found[GpuBy.JOB].total
        assert sum_of(short.lines[5:]) == sum_of(found[GpuBy.JOB].lines[5:])
        assert [line.name for line in short.lines[5:]] == ["other"]


def sum_of(lines: list[GpuSummary]) -> tuple[int, float, float]:
    """Return the number of jobs, and rounded hours and charge."""
    hours = sum(line.gpu_hours for line in lines)
    return sum(line.jobs for line in lines), round(hours, 2), round(sum(line.charge or 0.0 for line in lines))


def test_gpu_time_of_a_running_job_counts_until_now_and_has_no_price_without_one(ledger: LedgerUnderTest) -> None:
    running = job("j", ("starting", "2026-11-10T10:00", None), charge_per_gpu_hour=None, charge_unit="")
    ledger.worker.ledger.append([running])
    ledger.consumer.take_pending()
    with ledger.database.read() as connection:
        [line] = summarize_gpu_time(
            connection, GpuBy.GPU_TYPE, days("UTC", "2026-11-10", "2026-11-10"), NOON.timestamp()
        ).lines
    assert (line.name, line.gpu_hours, line.charge) == ("h200", 4.0, None)


def test_difference_to_accounting_is_shown_for_each_job_and_in_all(ledger: LedgerUnderTest) -> None:
    other = job("k", ("starting", "2026-11-01T02:00", "2026-11-01T03:00"), slurm_id=4712)
    ledger.worker.ledger.append([job("j", *NIGHT), other, accounting("j", 7 * 7200 - 3.0), accounting("k", 7201.0)])
    ledger.consumer.take_pending()
    span = days("UTC", "2026-11-01", "2026-11-01")
    with ledger.database.read() as connection:
        total, jobs = compare_with_accounting(connection, span), job_differences(connection, span)
        nothing = compare_with_accounting(connection, days("UTC", "2026-11-05", "2026-11-05"))
    assert [(one.job, one.difference_s) for one in jobs] == [("j", 3.0), ("k", -1.0)]
    assert (total.jobs, total.difference_s, total.largest_difference_s, total.largest_job) == (2, 2.0, 3.0, "j")
    assert nothing.jobs == 0 and nothing.asked_at is None


@pytest.mark.parametrize(
    ("zone", "first", "last", "month", "words"),
    [
        ("Mars/Olympus", None, None, None, "no time zone 'Mars/Olympus'"),
        ("../../etc/passwd", None, None, None, "no time zone"),
        ("UTC", "2026-11-31", None, None, "`from` is not a date"),
        ("UTC", "2026-11-30", "2026-11-01", None, "is after `to`"),
        ("UTC", "2026-11-30", None, "2026-11", "not both"),
        ("UTC", None, None, "2026-13", "`month` is not a date"),
        ("UTC", "2001-01-01", "2026-11-01", None, "at most 3700 days"),
        ("UTC", "0001-01-01", None, None, "not between 2000 and 2199"),
    ],
)
def test_period_that_does_not_exist_is_refused_with_a_sentence(
    zone: str, first: str | None, last: str | None, month: str | None, words: str
) -> None:
    with pytest.raises(InvalidPeriodError, match=words):
        make_range(zone, first, last, month, NOON)
