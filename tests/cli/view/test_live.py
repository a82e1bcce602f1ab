"""`bouchet top` at every width: columns are dropped, lines fit, and digits are never cut."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from bouchet_cli.view.live import LiveState, chart, live_lines
from bouchet_cli.view.screen import cell_width

from tests.browser.scene import SERVING_JOB, parked, point, queued, requests, serving, starting

NOW = datetime.now(UTC)


@pytest.fixture
def state() -> LiveState:
    """Return the scene as the API streams it."""
    records = [make(NOW).model_dump(mode="json") for make in (parked, queued, starting, serving)]
    tunnel: dict[str, Any] = {"state": "up", "host": "bouchet", "since": NOW.isoformat(), "round_trip_ms": 14.2}
    found = LiveState()
    found.take("status", {"deployments": records, "ended": [], "tunnel": tunnel, "worker": True, "proxy": {"open": 3}})
    found.take("requests", requests(NOW.timestamp()).model_dump(mode="json"))
    found.take("history", [point(NOW.timestamp() - ago, ago).model_dump() for ago in range(300, -1, -5)])
    return found


@pytest.mark.parametrize("width", range(60, 201, 7))
def test_lines_fit_and_numbers_are_whole(state: LiveState, width: int) -> None:
    lines = [line.plain for line in live_lines(state, width, 40, NOW)]
    assert max(map(cell_width, lines)) <= width
    # names may be shortened, also behind a digit of theirs; numbers are not
    assert not [line for line in lines if re.search(r"(^|\s)[\d.]+…", line)]
    text = "\n".join(lines)
    figures = state.latest(SERVING_JOB, NOW)
    assert str(round(figures["made"])) in text and "812" in text and "held" in text


def test_short_terminal_counts_the_requests_that_do_not_fit(state: LiveState) -> None:
    lines = [line.plain for line in live_lines(state, 100, 12, NOW)]
    assert len(lines) <= 12 and lines[-1] == "and 3 more"


def test_first_line_says_what_is_wrong(state: LiveState) -> None:
    assert state.status is not None
    state.take("status", {**state.status, "worker": False, "proxy": None})
    first = live_lines(state, 120, 40, NOW)[0].plain
    assert "worker silent" in first and "proxy silent" in first
    state.take("problem", {"detail": "Redis does not answer\x1b[31m"})
    assert any("Redis does not answer" in line.plain for line in live_lines(state, 120, 40, NOW))


def test_history_is_bounded_and_chart_has_its_highest_bar() -> None:
    found = LiveState()
    for number in range(5000):
        found.take("points", [{"job": "j", "at": number, "made": number}])
    assert len(found.points["j"]) == 60
    assert chart([0, 1, 2, 4]) == " ▂▄█" and chart([]) == "" and chart([0, 0]) == "  "
